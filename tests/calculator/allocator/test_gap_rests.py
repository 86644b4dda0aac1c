"""Gaps of which only the beginning is played: they leave the pool as if all of their events were."""

from random import Random
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.allocator import gap_rests
from calculator.allocator.fast_replay import FastReplay, peak_reserved
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.gap_rests import GapRests
from calculator.allocator.replay import full_peak_reserved
from calculator.devices import library_workspace
from calculator.devices.gpus import gpu
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from tests.calculator.random_plans import plans_with_trainers

WORKSPACES = tuple(part.bytes for part in library_workspace(gpu("a100-sxm4-80gb")))
#: Bits of an address in these tests' pools.
SHIFT = 40
SIZES = st.sampled_from([2100, 2200, 4000, 8000, 9000, 16000, 20000, 41000])
#: The size of an allocation, or the number of the live tensor that is freed.
ACTIONS = st.lists(st.one_of(SIZES, SIZES, st.integers(-30, -1)), max_size=60)


@given(ACTIONS, ACTIONS, st.lists(st.integers(0, 60), max_size=6), st.integers(1, 3))
def test_a_gap_leaves_the_free_blocks_and_the_segments_that_all_of_its_events_leave(before, gap, freed, times):
    """Whatever is free, and whichever earlier tensors the gap frees. A repetition begins where the last one ended."""
    pool, rows, alive = FlatPool(SHIFT, small=False), [], []
    places = [0] * 200, [0] * 200
    for action in before:
        if action > 0:
            rows.append(action)
            alive.append(len(rows) - 1)
            pool.play([len(rows) - 1], rows, places)
        elif alive:
            pool.play([~alive.pop(action % len(alive))], rows, places)
    events, own, ends = [], [], [*freed]
    for at, action in enumerate(gap):
        if action > 0:
            rows.append(action)
            own.append(len(rows) - 1)
            events.append(own[-1])
        elif own:
            events.append(~own.pop(action % len(own)))
        if alive and times == 1 and at % 7 == 3 and ends:
            events.append(~alive.pop(ends.pop() % len(alive)))
    events += [~row for row in own]
    if not any(event >= 0 for event in events):
        return
    allocated = {event for event in events if event >= 0}
    frees = [event for event in events if event < 0 and ~event not in allocated]
    item = SimpleNamespace(played=lambda *, skips: frees if skips else events)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gap_rests, "_APART", 1)
        rests = GapRests(events, rows, pool.waste)
    whole, others = pool.copied(), ([*places[0]], [*places[1]])
    for _ in range(times):
        whole.play(events, rows, others)
        rests.play(pool, item, rows, places)
        assert (pool.free_keys, pool.edges) == (whole.free_keys, whole.edges)
        assert (pool.segments, pool.reserved) == (whole.segments, whole.reserved)


def test_blocks_that_merge_around_a_freed_tensor_count_once():
    """The request of 9000 units finds at most 8500 behind a tensor of 8000, which is in both blocks of 9000."""
    sizes = [3000, 4500, 8000, 9000, 2100]
    pairs = [event for _ in range(4) for event in (1, ~1)]
    events = [4, *pairs, ~0, 1, 2, ~1, 3, ~2, ~3, ~4]
    pool = FlatPool(SHIFT, small=False)
    pool.next_address, pool.segments = 40000, [21000 << SHIFT | 1, 2100 << SHIFT | 30000]
    pool.set_free([9000 << SHIFT | 1, 9000 << SHIFT | 12001, 2100 << SHIFT | 30000])
    whole, places = pool.copied(), ([9001, 0, 0, 0, 0], [12001, 0, 0, 0, 0])
    whole.play(events, sizes, ([*places[0]], [*places[1]]))
    item = SimpleNamespace(played=lambda *, skips: [~0] if skips else events)
    GapRests(events, sizes, 0).play(pool, item, sizes, places)
    assert (pool.free_keys, pool.reserved) == (whole.free_keys, whole.reserved)
    assert len(pool.segments) == 3


def test_random_plans_with_trainers_reserve_what_the_full_replay_reserves():
    for request in plans_with_trainers(seed=9, count=12):
        resident = resident_state(request)
        assert peak_reserved(resident, WORKSPACES) == full_peak_reserved(resident, WORKSPACES)


@pytest.mark.parametrize("trainer", ["trl-dpo", "trl-kto", "trl-grpo", "trl-rloo"])
def test_less_than_half_of_a_checkpointed_backward_pass_is_played_with_a_fused_output_head(trainer, monkeypatch):
    played, backward, play = [], FastReplay._backward, FlatPool.play

    def counted(self, events, sizes, places):
        played[-1] += len(events)
        play(self, events, sizes, places)

    def of_large_tensors(self, n, pool, *given):
        monkeypatch.setattr(FlatPool, "play", counted if n else play)
        played.append(0)
        backward(self, n, pool, *given)
        monkeypatch.setattr(FlatPool, "play", play)

    monkeypatch.setattr(FastReplay, "_backward", of_large_tensors)
    training = {
        "micro_batch_size": 2,
        "gradient_checkpointing": True,
        "trainer": trainer,
        "max_completion_length": 1024,
    }
    method = {"name": "lora", "r": 16, "target_modules": "all-linear"}
    body = {"model": "meta-llama/Llama-3.1-8B", "method": method, "training": training}
    resident = resident_state(parse_request(body))
    events = len(FastReplay(resident, WORKSPACES).first.passes[1][1][-1].chunk.gap) * 32
    peak_reserved(resident, WORKSPACES)
    assert max(played) < events / 2


@pytest.mark.parametrize("seed", range(40))
def test_updates_of_adapters_in_a_gap_may_be_left_out(seed):
    """The tensors of a gap's modules are freed at its end. Each module's output is that of an update."""
    random, rows = Random(seed), []

    def requested(size):
        rows.append(size)
        return len(rows) - 1

    units = [2100 * random.choice((1, 2, 4, 7, 8)) for _ in range(30)]
    before = [requested(size) for size in units]
    outputs, events = [], []
    for _ in range(8):
        own, size = (2100 * random.choice((1, 2, 4, 7)) for _ in range(2))
        output, cast, first, second = requested(own), requested(4200), requested(size), requested(size)
        total, updated = requested(size), requested(own)
        events += [output, cast, first, second, ~first, total, ~second, ~output, updated, ~total]
        outputs += [cast, updated]
    events += [~row for row in random.sample(outputs, len(outputs))]
    pool, places = FlatPool(SHIFT, small=False), ([0] * len(rows), [0] * len(rows))
    pool.play([*before, *(~row for row in before if random.random() < 0.6)], rows, places)
    whole, others = pool.copied(), ([*places[0]], [*places[1]])
    item, rests = SimpleNamespace(played=lambda *, skips: [] if skips else events), GapRests(events, rows, pool.waste)
    for _ in range(3):
        whole.play(events, rows, others)
        rests.play(pool, item, rows, places)
        assert (pool.free_keys, pool.edges, pool.segments) == (whole.free_keys, whole.edges, whole.segments)


def test_the_need_of_the_largest_size_is_the_first_one():
    training = {"trainer": "trl-kto", "micro_batch_size": 2, "gradient_checkpointing": True}
    body = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora", "r": 8}, "training": training}
    batch = FastReplay(resident_state(parse_request(body)), WORKSPACES).first
    items = [item for passes in batch.passes for items in passes for item in items if item.chunk.allocates]
    read = [(item, [*item.needs()]) for item in items]
    assert any(len(item.chunk.counts) > 24 for item in items)
    for item, needs in read:
        assert needs == [*item.needs()] == [*item._needs.of(item._number)]
