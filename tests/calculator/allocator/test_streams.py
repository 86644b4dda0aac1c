"""Runs under FSDP2, whose streams have blocks of their own: every replay reserves what the plain one does."""

from dataclasses import replace

import pytest

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.capacity import CappedReplays
from calculator.allocator.fast_replay import peak_reserved
from calculator.allocator.history import History
from calculator.allocator.history_run import HistoryRun
from calculator.allocator.machines import ConfiguredMachine
from calculator.allocator.out_of_memory import DeviceMemory
from calculator.allocator.replay import Replay, full_peak_reserved
from calculator.allocator.segments import MIB
from calculator.devices import library_workspace
from calculator.estimation.estimate import estimate, resident_state
from calculator.estimation.history_replay import Histories
from calculator.estimation.request import parse_request
from calculator.estimation.sample_lengths import with_longest_batch
from calculator.sharding.fsdp.units import ALL_GATHER_OUTPUT, GATHERED, GRADIENT_SHARDS, REDUCE_SCATTER_INPUT
from calculator.sharding.streams import STREAMS
from calculator.training_step.step_batches import step_batches

WORKSPACES = tuple(part.bytes for part in library_workspace(None))
MODEL = "meta-llama/Llama-3.2-1B"
LORA = {"name": "lora", "target_modules": "all-linear"}
QLORA = {"name": "qlora", "quant_storage": "bfloat16"}

RUNS = {
    "full": {"autocast": "bfloat16"},
    "checkpointed": {"autocast": "bfloat16", "gradient_checkpointing": True},
    "accumulated": {"autocast": "bfloat16", "gradient_checkpointing": True, "gradient_accumulation_steps": 3},
    "two micro-batches": {"gradient_accumulation_steps": 2},
    "gathered": {"autocast": "bfloat16", "fsdp_config": {"reshard_after_forward": False}},
    "offloaded": {"autocast": "bfloat16", "fsdp_config": {"cpu_offload": True}},
    "lora": {"method": LORA, "gradient_accumulation_steps": 5},
    "qlora": {"method": QLORA, "gradient_checkpointing": True},
}


def body(model=MODEL, method=None, count=4, **training):
    return {
        "model": model,
        "method": method or {"name": "full"},
        "training": {"sequence_length": 1024, **training},
        "device": {"memory_bytes": 80 * 10**9, "count": count, "sharding": "fsdp"},
    }


def resident_of(*args, **training):
    return resident_state(parse_request(body(*args, **training)))


@pytest.fixture(scope="module", params=RUNS.values(), ids=[*RUNS])
def resident(request):
    return resident_of(**request.param)


def test_the_fast_replay_reserves_what_the_plain_one_does(resident):
    assert peak_reserved(resident, WORKSPACES) == full_peak_reserved(resident, WORKSPACES)


def test_earlier_gradients_count_once_in_a_step_with_passes_without_a_graph():
    config = {"model_type": "llama", "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    model = {"config": {**config, "num_attention_heads": 4, "vocab_size": 8000}}
    accumulated = {"trainer": "trl-kto", "micro_batch_size": 2, "gradient_accumulation_steps": 2}
    resident = resident_of(model, autocast="bfloat16", **accumulated)
    assert peak_reserved(resident, WORKSPACES) == full_peak_reserved(resident, WORKSPACES)


@pytest.mark.parametrize("conf", [DEFAULT, AllocConf(expandable_segments=True)], ids=["default", "expandable"])
def test_flat_devices_end_as_the_plain_allocator_on_any_capacity(resident, conf):
    run, peak = Replay(CachingAllocator(), resident, WORKSPACES), full_peak_reserved(resident, WORKSPACES, conf)
    flat, plain = CappedReplays(run, conf), CappedReplays(run, conf, flat=False)
    flat.share()
    for percent in (100, 93, 80):
        capacity = peak * percent // 100 // (2 * MIB) * 2 * MIB
        device = DeviceMemory(capacity=capacity, total=capacity + 600 * MIB, context=600 * MIB)
        assert flat.within(device) == plain.within(device)


def test_the_load_ends_with_the_shards_and_what_is_not_sharded(resident):
    run = Replay(CachingAllocator(), resident, WORKSPACES)
    sizes, stages = run.loading.for_device(None)
    events = [event for stage in stages for event in stage]
    alive = {event for event in events if event >= 0 and ~event not in set(events)}
    assert sum(sizes[row] for row in alive) == sum(tensor.bytes for tensor in resident.tensors)


def test_the_last_micro_batch_takes_every_gradient_of_the_first_once():
    batches = step_batches(resident_of(autocast="bfloat16", gradient_accumulation_steps=4))
    first = batches.first.events()
    assert sorted(of_first for _, of_first in batches.taken) == sorted(first.gradients)
    sizes = [(batches.last.rows[row][4], batches.first.rows[of_first][4]) for row, of_first in batches.taken]
    assert all(size == of_first for size, of_first in sizes)
    assert batches.repeats == 2


def test_gathers_and_reductions_have_their_own_streams():
    """foreach_all_gather and foreach_reduce: what is copied out and in is where the model computes."""
    events = step_batches(resident_of(autocast="bfloat16")).first.events()
    streams = {row[0]: STREAMS[stream] for row, stream in zip(events.rows, events.streams, strict=True)}
    layer = {ending: streams[f"model.layers.*{ending}"] for ending in (ALL_GATHER_OUTPUT, REDUCE_SCATTER_INPUT)}
    assert layer == {ALL_GATHER_OUTPUT: "all_gather_copy_in_stream", REDUCE_SCATTER_INPUT: ""}
    assert streams[f"model.layers.*{GRADIENT_SHARDS}"] == "reduce_scatter_stream"
    assert streams[f"model.layers.*.self_attn.q_proj.weight{GATHERED}"] == ""


@pytest.mark.parametrize("steps", [1, 3])
def test_micro_batches_of_drawn_lengths_are_replayed_with_their_streams(steps):
    lengths = [[128, 30], [512, 10], [900, 1]]
    given = body(autocast="bfloat16", gradient_accumulation_steps=steps, sequence_lengths=lengths)
    request = parse_request(given)
    history = Histories.from_training(request.training).steps[0][-8:]
    run = HistoryRun(resident_state(with_longest_batch(request)), WORKSPACES)
    plain = History(run, ConfiguredMachine(DEFAULT, None), None).finish(history, None)
    assert run.replay(history) == plain


def test_the_rule_counts_what_a_whole_model_in_four_bits_leaves_cached_and_gathers_of_another_stream():
    request = parse_request(body(method=QLORA, count=64, sequence_length=64))
    rule, replay = (estimate(replace(request, reserved=by)).memory.peak_reserved_bytes for by in ("rule", "replay"))
    run = Replay(CachingAllocator(), resident_state(request), WORKSPACES)
    run.load()
    assert run.allocator.reserved * 0.9 < rule < 1.1 * replay


def test_a_verdict_is_by_the_replay():
    """The published run of torchtitan reserves 28.07 GiB; its model and its reductions in float32 are others."""
    training = {"sequence_length": 4096, "autocast": "bfloat16", "dtype": "float32", "gradient_checkpointing": True}
    answer = estimate(parse_request(body("meta-llama/Llama-3.1-8B", count=8, **training)))
    assert answer.reserved == "replay"
    assert answer.fit.minimum_bytes < answer.memory.required_bytes
    assert any("Each stream has blocks of its own" in line for line in answer.assumptions)


def test_no_number_of_gpus_is_enough_for_a_model_in_four_bits_that_each_has_whole_until_it_is_sharded():
    given = body("meta-llama/Llama-3.1-70B", QLORA, count=2, gradient_checkpointing=True, autocast="bfloat16")
    for memory, enough in ((24 * 10**9, False), (60 * 10**9, True)):
        fit = estimate(parse_request({**given, "device": {**given["device"], "memory_bytes": memory}})).fit
        assert (fit.gpus_needed is not None) == enough
