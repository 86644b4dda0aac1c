"""Runs under ZeRO, whose steps are replayed whole: every replay reserves what the plain one does."""

import pytest

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.capacity import CappedReplays
from calculator.allocator.fast_replay import peak_reserved
from calculator.allocator.out_of_memory import DeviceMemory
from calculator.allocator.replay import Replay, full_peak_reserved
from calculator.allocator.segments import MIB
from calculator.allocator.sharded_loading import loading_of
from calculator.devices import library_workspace
from calculator.estimation.estimate import estimate, resident_state
from calculator.estimation.request import parse_request
from calculator.sharding.zero.replayed import GATHERS, REDUCTIONS
from calculator.training_step.replayed_step import step_of
from calculator.training_step.step import TrainingStep

WORKSPACES = tuple(part.bytes for part in library_workspace(None))
LORA = {"name": "lora", "target_modules": "all-linear"}
OFFLOADED = {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}

RUNS = {
    "stage 1": ("zero1", {}),
    "stage 1, accumulated": ("zero1", {"gradient_accumulation_steps": 3, "gradient_checkpointing": True}),
    "stage 2, of a trainer": ("zero2", {"trainer": "transformers", "gradient_accumulation_steps": 4}),
    "stage 2, qlora": ("zero2", {"method": {"name": "qlora"}}),
    "stage 2, offloaded": ("zero2", {"deepspeed": OFFLOADED, "gradient_accumulation_steps": 2}),
    "stage 3": ("zero3", {"gradient_checkpointing": True}),
    "stage 3, lora": ("zero3", {"method": LORA, "gradient_accumulation_steps": 2}),
}


def body(sharding, method=None, count=4, **training):
    return {
        "model": "meta-llama/Llama-3.2-1B",
        "method": method or {"name": "full"},
        "training": {"sequence_length": 1024, "autocast": "bfloat16", **training},
        "device": {"memory_bytes": 80 * 10**9, "count": count, "sharding": sharding},
    }


def resident_of(sharding, method=None, count=4, **training):
    return resident_state(parse_request(body(sharding, method, count, **training)))


@pytest.fixture(scope="module", params=RUNS.values(), ids=[*RUNS])
def resident(request):
    sharding, training = request.param
    return resident_of(sharding, **training)


def test_the_fast_replay_reserves_what_the_plain_one_does(resident):
    assert peak_reserved(resident, WORKSPACES) == full_peak_reserved(resident, WORKSPACES)


@pytest.mark.parametrize("conf", [DEFAULT, AllocConf(expandable_segments=True)], ids=["default", "expandable"])
def test_flat_devices_end_as_the_plain_allocator_on_any_capacity(resident, conf):
    run, peak = Replay(CachingAllocator(), resident, WORKSPACES), full_peak_reserved(resident, WORKSPACES, conf)
    flat, plain = CappedReplays(run, conf), CappedReplays(run, conf, flat=False)
    flat.share()
    for percent in (100, 85):
        device = _device(peak * percent // 100)
        assert flat.within(device) == plain.within(device)


def most_alive(events):
    """The most bytes alive among the tensors of a step."""
    alive = most = 0
    for event in events.events:
        size = events.rows[max(event, ~event)][4]
        alive += size if event >= 0 else -size
        most = max(most, alive)
    return most


def test_a_step_has_the_live_tensors_of_the_peaks(resident):
    """Tensors that a step leaves for the next forward pass, and numbers of norms, are not the next pass's own."""
    step = step_of(resident)
    training = TrainingStep(resident)
    kept = sum(tensor.bytes for tensor in (training.flat or training.partitioned).resident_tensors)
    frozen = sum(tensor.bytes for tensor in resident.tensors if not tensor.trained) if training.flat else 0
    backward = next(peak.bytes for peak in training.peaks() if peak.phase == "backward")
    assert most_alive(step.events) == pytest.approx(backward - kept - frozen, rel=0.02)


def test_gathers_and_reductions_have_their_own_streams_only_with_overlap_comm():
    streams = {}
    for overlap in (True, False):
        zero = {"zero_optimization": {"overlap_comm": overlap, "stage3_param_persistence_threshold": 0}}
        streams[overlap] = {*step_of(resident_of("zero3", deepspeed=zero)).events.streams}
    assert streams == {True: {0, GATHERS, REDUCTIONS}, False: {0}}


def test_weights_that_become_a_flat_tensor_stay_cached_if_nothing_empties_the_cache():
    """One group: the blocks of its weights stay. The two of transformers' trainer: those of the matrices do not."""
    cached = []
    for training in ({}, {"trainer": "transformers"}):
        loading = loading_of(resident_of("zero2", **training))
        freed = {~event for event in loading.events if event < 0}
        cached.append(sum(loading.sizes[row] for row in freed if loading.names[row].startswith("model.")))
    assert cached[0] == pytest.approx(2 * 1_235_814_400, rel=1e-3)
    assert cached[1] < 1_000_000


def test_frozen_layers_stay_loaded_whose_weights_have_the_names_of_trained_ones():
    method = {"name": "full", "unfrozen_parameters": ["model.layers.1."]}
    loaded = []
    for chosen in (method, {"name": "full"}):
        resident = resident_of("zero2", chosen)
        loading = loading_of(resident)
        alive = sum(loading.sizes[max(event, ~event)] * (1 if event >= 0 else -1) for event in loading.events)
        states = sum(state.bytes for state in resident.flat.states)
        loaded.append(alive + states - sum(tensor.bytes for tensor in resident.flat.resident_tensors))
    assert loaded[0] == loaded[1]


def test_the_rule_counts_the_float64_copy_of_an_offloaded_gradient():
    zero = {"zero_optimization": {"reduce_bucket_size": 50_000, "offload_optimizer": {"device": "cpu"}}}
    config = {"model_type": "llama", "vocab_size": 100_000, "hidden_size": 512, "intermediate_size": 1024}
    config |= {"num_hidden_layers": 2, "num_attention_heads": 8}
    request = body("zero2", count=2, deepspeed=zero, sequence_length=16)
    request |= {"model": {"config": config}, "reserved": "rule"}
    memory = estimate(parse_request(request)).memory
    assert memory.peak_reserved_bytes >= memory.peak_allocated_bytes + memory.library_workspace_bytes


def test_a_run_that_ends_while_gradients_are_copied_ends_in_the_optimizers_step():
    run = Replay(CachingAllocator(), resident_of("zero2", count=2, gradient_checkpointing=True), WORKSPACES)
    ends = {}
    for gigabytes in range(6, 16):
        ended = CappedReplays(run, DEFAULT).within(_device(gigabytes * 10**9)).out_of_memory
        if ended is not None:
            ends[ended.tensor] = ended.phase
    assert ends["DeepSpeed: float32 gradients"] == "optimizer_step"


def _device(capacity):
    capacity = capacity // (2 * MIB) * 2 * MIB
    return DeviceMemory(capacity=capacity, total=capacity + 600 * MIB, context=600 * MIB)
