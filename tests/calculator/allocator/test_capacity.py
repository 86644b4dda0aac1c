"""Runs on devices of limited memory, and the smallest of them on which a run fits."""

from random import Random

import pytest

from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.capacity import (
    CappedReplay,
    CappedReplays,
    _smallest_capacity,
    layout,
    minimum,
    replay_within,
)
from calculator.allocator.out_of_memory import DeviceMemory
from calculator.allocator.replay import Replay, full_peak_reserved
from calculator.allocator.segments import MIB
from calculator.devices import library_workspace
from calculator.estimation.estimate import estimate, resident_state, training_step
from calculator.estimation.request import parse_request
from tests.calculator.random_plans import plans

GIB, PAGE = 1 << 30, 2 * MIB
WORKSPACES = tuple(part.bytes for part in library_workspace(None))
LLAMA = {"model": "meta-llama/Llama-3.2-1B", "training": {"sequence_length": 2048}}
LORA = LLAMA | {"method": {"name": "lora", "r": 16, "target_modules": "all-linear"}}
FULL = LLAMA | {"method": {"name": "full"}, "training": {"gradient_checkpointing": True}}
CONFS = ["", "expandable_segments:True", "max_split_size_mb:64", "roundup_power2_divisions:8"]
FALCON_H1 = {
    "model": {
        "config": {
            "model_type": "falcon_h1",
            "head_dim": 128,
            "hidden_act": "silu",
            "rms_norm_eps": 1e-05,
            "rope_theta": 100000000000.0,
            "attention_bias": False,
            "mlp_bias": False,
            "projectors_bias": False,
            "mamba_d_state": 256,
            "mamba_d_conv": 4,
            "mamba_n_groups": 1,
            "mamba_expand": 2,
            "mamba_chunk_size": 128,
            "mamba_conv_bias": True,
            "mamba_proj_bias": False,
            "mamba_norm_before_gate": False,
            "mamba_rms_norm": True,
            "tie_word_embeddings": False,
            "vocab_size": 130048,
            "hidden_size": 3072,
            "intermediate_size": 12288,
            "num_hidden_layers": 19,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "mamba_d_ssm": 3072,
            "mamba_n_heads": 24,
            "mamba_d_head": 128,
            "max_position_embeddings": 262144,
        }
    },
    "method": {"name": "ln_tuning", "target_modules": ["final_layernorm", "input_layernorm", "pre_ff_layernorm"]},
    "device": {"gpu": "h100-sxm5-80gb", "alloc_conf": "expandable_segments:True"},
    "training": {
        "micro_batch_size": 2,
        "sequence_length": 1000,
        "adapter_dtype": "model",
        "optimizer": "paged_adamw_8bit",
    },
}


def device_of(capacity):
    return DeviceMemory(capacity=capacity, total=capacity + 512 * MIB, context=512 * MIB)


def run_of(request):
    return Replay(CachingAllocator(), resident_state(request), WORKSPACES)


def live(request):
    return max(peak.bytes for peak in training_step(request).peaks()) + sum(WORKSPACES)


@pytest.fixture(scope="module", params=[LORA, FULL], ids=["lora", "full"])
def request_(request):
    return parse_request(request.param)


@pytest.fixture(scope="module")
def run(request_):
    return run_of(request_)


def test_on_a_device_that_never_fills_the_replay_is_the_unlimited_one(request_, run):
    result = replay_within(run, device_of(10_000 * GIB))
    assert result.peak_reserved_bytes == full_peak_reserved(resident_state(request_), WORKSPACES)
    assert (result.out_of_memory, result.retries) == (None, 0)


@pytest.mark.parametrize("conf", CONFS)
def test_a_run_fits_on_the_smallest_capacity_and_not_on_a_page_less(request_, run, conf):
    settings = parse_alloc_conf(conf)
    found = minimum(run, live(request_), device_of, settings)
    assert live(request_) <= found
    assert replay_within(run, device_of(found), settings).out_of_memory is None
    assert replay_within(run, device_of(found - PAGE), settings).out_of_memory is not None


@pytest.mark.parametrize("refused", [lambda _: 700, lambda _: 900, lambda low: low + 1, lambda _: 2000, lambda _: None])
@pytest.mark.parametrize("least", [2, 333, 700, 999, 1000])
def test_the_search_ends_where_a_page_less_fails_whatever_the_replays_name(refused, least):
    probes = []

    def within(capacity):
        probes.append(capacity // PAGE)
        last = refused(capacity // PAGE)
        return CappedReplay(
            peak_reserved_bytes=0,
            retries=0,
            retries_per_step=0,
            out_of_memory=capacity < least * PAGE or None,
            same_from=capacity,
            same_below=None,
            last_refused=last and last * PAGE,
        )

    assert _smallest_capacity(within, PAGE, 1000 * PAGE) == least * PAGE
    assert len(probes) == len(set(probes)) <= 60
    assert least != 700 or refused(0) != 700 or len(probes) == 3


def test_a_smaller_address_range_leaves_other_free_blocks_to_a_run():
    """With what it reserves on a large device, it runs out of memory: a request takes another free block there."""
    replay = estimate(parse_request(FALCON_H1)).memory.replay
    context, settings = replay.context_bytes, replay.conf
    found = replay.outcome(10_000 * GIB).minimum_bytes() - context
    run = Replay(CachingAllocator(), replay.resident, replay.workspaces)
    plain = CappedReplays(run, settings, flat=False)

    def within(capacity):
        return plain.within(DeviceMemory(capacity=capacity, total=capacity + context, context=context))

    assert within(10_000 * GIB).peak_reserved_bytes < found
    assert within(found).out_of_memory is None
    assert within(found - PAGE).out_of_memory is not None


def test_a_known_peak_changes_no_minimum(request_, run):
    alive = live(request_)
    assert minimum(run, alive, device_of, peak_reserved_bytes=run_peak(run)) == minimum(run, alive, device_of)


def test_cached_blocks_are_freed_if_a_run_just_fits():
    request = parse_request(LORA)
    run = run_of(request)
    result = replay_within(run, device_of(minimum(run, live(request), device_of)))
    assert result.out_of_memory is None
    assert result.retries > 0


def test_a_run_out_of_memory_has_its_step_phase_tensor_and_message(request_, run):
    result = replay_within(run, device_of(live(request_) - PAGE))
    event = result.out_of_memory
    assert event.step >= 1
    assert event.phase in {"forward", "backward", "optimizer_step"}
    assert event.tensor
    assert event.message.startswith("CUDA out of memory. Tried to allocate ")


def test_weights_that_do_not_fit_end_the_run_while_it_loads(run):
    event = replay_within(run, device_of(2 * GIB)).out_of_memory
    assert (event.step, event.phase) == (0, "load")
    assert event.tensor.startswith("model.layers.")


def test_the_warmup_leaves_1_2_gib_of_a_small_device_alone(run):
    """Otherwise it would fail on any device that is smaller than the weights, before the first of them is read."""
    sizes, (events,) = run.loading.for_device(2 * GIB)
    assert sizes[0] == pytest.approx(0.8 * GIB, abs=512)
    assert run.loading.for_device(None) == (run.loading.sizes, [run.loading.events])
    assert run.loading.for_device(1 * GIB)[1] == [events[2:]]


def test_capacities_between_two_that_a_result_names_have_the_same_result(run, request_):
    low, high = live(request_), run_peak(run)
    chance = Random(7)
    for _ in range(8):
        capacity = chance.randrange(low, high) // PAGE * PAGE
        result = replay_within(run, device_of(capacity))
        other = result.same_from if result.out_of_memory is None else result.same_below - PAGE
        again = replay_within(run, device_of(max(other, result.same_from)))
        assert again.peak_reserved_bytes == result.peak_reserved_bytes
        assert again.retries == result.retries
        assert (again.out_of_memory is None) == (result.out_of_memory is None)


def run_peak(run):
    return replay_within(run, device_of(10_000 * GIB)).peak_reserved_bytes


def test_random_plans_fit_on_their_minimum_and_need_no_more_than_an_unlimited_device():
    for request in plans(seed=15, count=2):
        run, alive = run_of(request), live(request)
        found = minimum(run, alive, device_of)
        unlimited = replay_within(run, device_of(10_000 * GIB)).peak_reserved_bytes
        assert alive <= found <= max(unlimited, run.loading.warmup + 2 * GIB)
        assert replay_within(run, device_of(found)).out_of_memory is None


def test_a_layout_repeats_once_steps_do():
    """Every second step where the new loss and the old one, which is freed after it, change places."""
    run = run_of(next(iter(plans(seed=3, count=1))))
    run.load()
    layouts = []
    for _ in range(6):
        run.step()
        layouts.append(layout(run))
    assert layouts[0] != layouts[2]
    assert (layouts[2], layouts[3]) == (layouts[4], layouts[5])


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
def test_flat_devices_answer_as_the_allocator_does(conf):
    """Random plans on random devices, most of them too small: each figure, and where and why a run ends."""
    chance, failures, retried, settings = Random(11), 0, 0, parse_alloc_conf(conf)
    for request in plans(seed=23, count=4):
        run, alive = run_of(request), live(request)
        flat, full = CappedReplays(run, settings), CappedReplays(run, settings, flat=False)
        flat.share()
        most = full.within(device_of(10_000 * GIB)).peak_reserved_bytes
        for capacity in [*(chance.randrange(int(alive * 0.97), int(most * 1.01)) for _ in range(5)), alive // 2]:
            result = flat.within(device_of(capacity))
            assert result == full.within(device_of(capacity))
            failures += result.out_of_memory is not None
            retried += result.retries > 0
    assert failures > 10
    assert retried > 10


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
@pytest.mark.parametrize("steps", [2, 5])
def test_flat_devices_answer_as_the_allocator_does_with_accumulated_gradients(steps, conf):
    body = LLAMA | {"method": {"name": "full"}, "training": {"gradient_accumulation_steps": steps}}
    run, alive = run_of(parse_request(body)), live(parse_request(body))
    settings = parse_alloc_conf(conf)
    flat, full = CappedReplays(run, settings), CappedReplays(run, settings, flat=False)
    for capacity in (alive - PAGE, alive + 100 * MIB, alive + 400 * MIB, 10_000 * GIB):
        assert flat.within(device_of(capacity)) == full.within(device_of(capacity))
