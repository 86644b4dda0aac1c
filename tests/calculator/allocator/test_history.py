"""Histories of micro-batches against a step-by-step replay on a plain transcription of PyTorch's allocator."""

from dataclasses import replace
from random import Random

import pytest

from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.allocator.history import EmptyCache, History, Padded
from calculator.allocator.history_run import HistoryRun
from calculator.allocator.loading import one_by_one
from calculator.allocator.out_of_memory import DeviceMemory
from calculator.allocator.played_steps import PlayedSteps
from calculator.allocator.replay import full_peak_reserved
from calculator.allocator.sharded_loading import loading_of
from calculator.devices import library_workspace
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.training_step.unrolled import events
from tests.calculator.allocator.plain_allocator import MIB, Plain, PlainOutOfMemoryError

WORKSPACES = tuple(part.bytes for part in library_workspace(None))
CONFIG = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 32000,
}
PLANS = {
    "full": ({"name": "full"}, {"gradient_checkpointing": True}),
    "lora": ({"name": "lora", "target_modules": "all-linear"}, {}),
    "qlora, accumulated": ({"name": "qlora"}, {"gradient_accumulation_steps": 3}),
    "prompt": ({"name": "prompt"}, {"gradient_checkpointing": True}),
}


@pytest.fixture(scope="module", params=PLANS)
def resident(request):
    method, training = PLANS[request.param]
    body = {
        "model": {"config": CONFIG},
        "method": method,
        "training": {"micro_batch_size": 4, "sequence_length": 900, **training},
    }
    return resident_state(parse_request(body))


def drawn(resident, count=7, seed=0, choices=(64, 200, 333, 512, 700)):
    """Steps of micro-batches, of which some have a length that came before, and the second last the longest."""
    random = Random(seed)
    size = min(3, resident.prepared.training.gradient_accumulation_steps)
    lengths = [random.choice(choices) for _ in range(size * count)]
    lengths[-size - 1] = 900
    batches = [Padded(length, length % 2 == 0) for length in lengths]
    return tuple(tuple(batches[at : at + size]) for at in range(0, len(batches), size))


def plain_history(resident, steps, empty_cache=None, capacity=None):
    """The most bytes reserved in each step, and the retries, with every micro-batch interpreted with its numbers."""
    plain = Plain() if capacity is None else Plain(capacity=capacity)
    prepared, reserved = resident.prepared, []
    most = 0

    def allocate(size):
        nonlocal most
        block = plain.malloc(size)
        most = max(most, plain.reserved)
        return block

    def play(events, sizes, blocks):
        for event in events:
            if event >= 0 and sizes[event]:
                blocks[event] = allocate(sizes[event])
            elif event < 0 and sizes[~event]:
                plain.free(blocks.pop(~event))

    loading, loaded = loading_of(resident), {}
    for n, stage in enumerate(loading.stages):
        if n:
            plain.release_cached_blocks()
        play(stage, loading.sizes, loaded)
    left, gradients = [], []
    for number, step in enumerate(steps):
        empties = empty_cache is not None and empty_cache.in_step(number)
        for block in gradients:
            plain.free(block)
        for n, batch in enumerate(step):
            training = replace(prepared.training, sequence_length=batch.length, padding=batch.padding)
            if not n:
                training = replace(training, gradient_accumulation_steps=1)
            events_ = events(prepared.for_run(training, prepared.device))
            sizes, blocks = [row[4] for row in events_.rows], {}
            for passed, workspace in zip((events_.forward, events_.backward), WORKSPACES, strict=True):
                start = events_.workspace_place(passed)
                play(passed[:start], sizes, blocks)
                if not number and not n:
                    allocate(workspace)
                play(passed[start:], sizes, blocks)
                for block in left:
                    plain.free(block)
                left = []
                if passed is events_.forward and empties and empty_cache.after_forward:
                    plain.release_cached_blocks()
            if not n:
                gradients = [blocks[row] for row in events_.gradients if row in blocks]
            left = [blocks[row] for row in events_.left if row in blocks]
        if not number:
            for tensor in one_by_one(resident.optimizer_states):
                allocate(tensor.bytes // tensor.count)
        temporaries = [tensor.bytes // tensor.count for tensor in one_by_one(resident.step_temporaries)]
        for block in [allocate(size) for size in temporaries]:
            plain.free(block)
        if empties and not empty_cache.after_forward:
            plain.release_cached_blocks()
        reserved.append(most)
        most = plain.reserved
    return tuple(reserved), plain.retries


@pytest.mark.parametrize(
    "empty_cache",
    [None, EmptyCache(steps=2, after_forward=True), EmptyCache(steps=3, after_forward=False)],
    ids=["never emptied", "after the forward pass", "after the step"],
)
def test_a_history_reserves_what_a_step_by_step_replay_reserves(resident, empty_cache):
    steps = drawn(resident)
    result = HistoryRun(resident, WORKSPACES).replay(steps, empty_cache=empty_cache)
    assert (result.reserved, sum(result.retries)) == plain_history(resident, steps, empty_cache)


@pytest.mark.parametrize("share", [None, 0.9, 0.8])
def test_histories_that_share_their_played_steps_reserve_what_each_reserves_alone(resident, share):
    seeds = [drawn(resident, 12, choices=choices) for choices in ((333,), (200, 333))]
    empty_cache = EmptyCache(steps=6, after_forward=True)
    alone = [HistoryRun(resident, WORKSPACES).replay(steps, empty_cache=empty_cache) for steps in seeds]
    device = None
    if share is not None:
        capacity = int(alone[0].peak_reserved_bytes * share) // MIB * MIB
        device = DeviceMemory(capacity=capacity, total=1 << 50, context=0)
        alone = [plain_result(resident, steps, empty_cache, device) for steps in seeds]
    run, played = HistoryRun(resident, WORKSPACES), PlayedSteps()
    shared = [run.replay(steps, empty_cache=empty_cache, device=device, played=played) for steps in seeds]
    assert shared == alone
    assert played.repeated > 0


def plain_result(resident, steps, empty_cache, device):
    """The history on a device, with every step played."""
    run = HistoryRun(resident, WORKSPACES)
    return History(run, run.machine(steps).saved(device.capacity), empty_cache).finish(steps, device)


def test_a_history_of_one_length_reserves_what_the_run_reserves(resident):
    size = resident.prepared.training.gradient_accumulation_steps
    steps = ((Padded(900, padding=False),) * size,) * 5
    result = HistoryRun(resident, WORKSPACES).replay(steps)
    assert result.peak_reserved_bytes == full_peak_reserved(resident, WORKSPACES)


def test_a_history_on_a_small_device_retries_as_the_plain_allocator_or_ends_where_it_does(resident):
    steps, run = drawn(resident), HistoryRun(resident, WORKSPACES)
    most = run.replay(steps).peak_reserved_bytes
    outcomes = set()
    for share in (0.98, 0.9, 0.8, 0.7, 0.5):
        capacity = int(most * share) // MIB * MIB
        # The warmup of from_pretrained is that of a large device.
        device = DeviceMemory(capacity=capacity, total=1 << 50, context=0)
        result = run.replay(steps, device=device)
        try:
            reserved, retries = plain_history(resident, steps, capacity=capacity)
        except PlainOutOfMemoryError:
            assert result.out_of_memory is not None
            outcomes.add("out of memory")
            continue
        assert (result.reserved, sum(result.retries), result.out_of_memory) == (reserved, retries, None)
        outcomes.add("retries" if retries else "none")
    assert "retries" in outcomes or "out of memory" in outcomes


def test_a_history_continues_on_a_device_that_its_first_step_fills_as_it_begins_there(resident):
    steps = drawn(resident)
    run = HistoryRun(resident, WORKSPACES)
    first = run.replay(steps).reserved[0]
    for share in (1.0, 0.9, 0.7, 0.5):
        capacity = int(first * share) // MIB * MIB - MIB
        device = DeviceMemory(capacity=capacity, total=1 << 50, context=0)
        begun = History(run, run.machine(steps).saved(capacity), None).finish(steps, device)
        assert run.replay(steps, device=device) == begun


def test_settings_that_change_nothing_reserve_the_same_on_the_other_machine(resident):
    steps, run = drawn(resident), HistoryRun(resident, WORKSPACES)
    other = run.replay(steps, conf=parse_alloc_conf("max_split_size_mb:1000000"))
    assert other == run.replay(steps)


def test_a_growing_length_reserves_more_than_the_longest_alone_and_expandable_segments_less():
    body = {
        "model": {"config": CONFIG},
        "method": {"name": "lora"},
        "training": {"micro_batch_size": 4, "sequence_length": 900, "gradient_checkpointing": True},
    }
    resident = resident_state(parse_request(body))
    run = HistoryRun(resident, WORKSPACES)
    growing = tuple((Padded(length, padding=False),) for length in (200, 400, 600, 800, 900))
    alone = run.replay(growing[-1:] * 3).peak_reserved_bytes
    result = run.replay(growing)
    assert (result.peak_step, result.peak_reserved_bytes > 1.5 * alone) == (5, True)
    assert run.replay(growing, empty_cache=EmptyCache(steps=1, after_forward=False)).peak_reserved_bytes < 1.1 * alone
    assert run.replay(growing, conf=parse_alloc_conf("expandable_segments:True")).peak_reserved_bytes < 1.1 * alone


def test_a_history_that_ends_out_of_memory_states_where():
    resident = resident_state(parse_request({"model": {"config": CONFIG}, "method": {"name": "full"}}))
    run = HistoryRun(resident, WORKSPACES)
    steps = tuple((Padded(length, padding=False),) for length in (100, 100, 1500, 100))
    most = run.replay(steps[:2]).peak_reserved_bytes
    device = DeviceMemory(capacity=most + 40 * MIB, total=1 << 50, context=0)
    end = run.replay(steps, device=device).out_of_memory
    assert (end.step, end.phase) == (3, "forward")
    assert end.tensor
    assert "Tried to allocate" in end.message
