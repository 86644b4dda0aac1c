"""The fast replay: equal to the full one, for every family and method, and for pools and stretches at random."""

from dataclasses import replace
from itertools import cycle, islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.chunks import SMALL
from calculator.allocator.fast_replay import FastReplay, StartState, _allocate, peak_reserved
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.needs import Need
from calculator.allocator.replay import full_peak_reserved
from calculator.allocator.segments import BLOCK, MIB
from calculator.allocator.transients import MicroBatch
from calculator.devices import library_workspace
from calculator.devices.gpus import gpu
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from calculator.training_step.unrolled import unrolled
from tests.calculator.allocator.test_replay import BEHIND, CHOSEN, LLAMA_8B
from tests.calculator.random_plans import plans
from tests.executed_lines import executed_lines

CARDS = ("a100-sxm4-80gb", "h100-sxm5-80gb")
WORKSPACES = {name: tuple(part.bytes for part in library_workspace(gpu(name))) for name in CARDS}
#: Bits of an address in these tests' pools.
SHIFT = 40


def resident_of(body):
    return resident_state(parse_request(body))


@pytest.mark.parametrize(("case", "card"), [*zip(CHOSEN.values(), cycle(CARDS))], ids=[" ".join(key) for key in CHOSEN])
def test_every_family_and_method_reserves_what_the_full_replay_reserves(case, card):
    resident = resident_of(case["request"])
    assert peak_reserved(resident, WORKSPACES[card]) == full_peak_reserved(resident, WORKSPACES[card])


@pytest.mark.parametrize("case", BEHIND, ids=lambda case: case["id"])
def test_tensors_that_outlive_their_layer_are_placed(case):
    resident = resident_of(case["request"])
    assert peak_reserved(resident, WORKSPACES[CARDS[0]]) == full_peak_reserved(resident, WORKSPACES[CARDS[0]])


def test_random_plans_reserve_what_the_full_replay_reserves():
    for request in plans(seed=8, count=20):
        resident = resident_state(request)
        assert peak_reserved(resident, WORKSPACES[CARDS[0]]) == full_peak_reserved(resident, WORKSPACES[CARDS[0]])


def test_replays_of_a_series_share_a_load(monkeypatch):
    series, loads, loaded = SeriesCache(), [], FastReplay._loaded
    monkeypatch.setattr(FastReplay, "_loaded", lambda self: loads.append(self) or loaded(self))
    for length in (512, 520, 515, 4096):
        training = {"sequence_length": length, "gradient_checkpointing": True}
        resident = resident_state(parse_request({**LLAMA_8B, "training": training}), series)
        found = peak_reserved(resident, WORKSPACES[CARDS[0]])
        assert found == full_peak_reserved(resident, WORKSPACES[CARDS[0]])
    # The longest needs addresses of more bits.
    assert len(loads) == 2


@pytest.mark.parametrize(
    ("trainer", "settings"),
    [
        ("trl-sft", {"sequence_length": 1100}),
        ("trl-dpo", {"sequence_length": 700, "gradient_accumulation_steps": 2}),
        ("trl-kto", {"sequence_length": 900, "autocast": "bfloat16"}),
        ("trl-kto", {"sequence_length": 2048}),
        ("trl-rloo", {"sequence_length": 1024, "max_completion_length": 512}),
    ],
)
def test_passes_without_a_graph_and_recurring_states_reserve_the_same_as_the_full_replay(trainer, settings):
    training = {"trainer": trainer, "micro_batch_size": 2, "gradient_checkpointing": True, **settings}
    method = {"name": "lora", "r": 16, "target_modules": "all-linear"}
    resident = resident_of({"model": "meta-llama/Llama-3.2-1B", "method": method, "training": training})
    assert peak_reserved(resident, WORKSPACES[CARDS[0]]) == full_peak_reserved(resident, WORKSPACES[CARDS[0]])


@pytest.mark.parametrize("steps", [2, 8])
def test_accumulated_gradients_are_replayed_with_their_own_micro_batches(steps):
    for method in ({"name": "full"}, {"name": "lora", "target_modules": "all-linear"}):
        training = {"gradient_accumulation_steps": steps, "sequence_length": 1000, "optimizer": "sgd"}
        resident = resident_of({"model": "meta-llama/Llama-3.2-1B", "method": method, "training": training})
        assert peak_reserved(resident, WORKSPACES[CARDS[0]]) == full_peak_reserved(resident, WORKSPACES[CARDS[0]])


@pytest.mark.parametrize(
    "case", [*islice(CHOSEN.values(), 0, None, 4)], ids=lambda case: str(case["request"]["model"])[:40]
)
def test_chunks_are_the_events_and_no_transient_is_alive_when_a_placed_tensor_is_allocated(case):
    resident = resident_of(case["request"])
    prepared = resident.prepared
    training = replace(prepared.training, gradient_accumulation_steps=1)
    parts = unrolled(prepared.for_run(training, prepared.device))
    batch, full = MicroBatch(parts, None), parts.events()
    for large in (False, True):
        for n, passed in enumerate((full.forward, full.backward)):
            played, alive = [], set()
            for item in batch.passes[large][n]:
                gap, placed = item.events(item.chunk.gap), item.events(item.chunk.placed)
                kept = set(item.events(item.chunk.frees))
                for event in gap:
                    if event not in kept:
                        (alive.add if event >= 0 else alive.remove)(max(event, ~event))
                assert not (alive and item.chunk.ends_stretch)
                played += [*gap, *placed]
            assert not alive
            assert played == [event for event in passed if _is_of(parts.rows[max(event, ~event)][4], large=large)]


@pytest.mark.parametrize("model", ["meta-llama/Llama-3.2-1B", "google/gemma-3-270m"])
def test_requests_that_differ_in_length_share_chunks_while_no_tensor_changes_its_pool(model):
    series, cuts = SeriesCache(), []
    for length in (96, 1000, 1016, 1024, 300, 2048, 2064):
        body = {"model": model, "method": {"name": "lora"}, "training": {"sequence_length": length}}
        resident = resident_state(parse_request(body), series)
        assert peak_reserved(resident, WORKSPACES[CARDS[0]]) == full_peak_reserved(resident, WORKSPACES[CARDS[0]])
        cuts += [cut for cut in resident.unrolled.micro_batch(resident.prepared).known.values() if cut not in cuts]
    assert 1 < len(cuts) < 7


def _is_of(size, *, large):
    return size > 0 and (size // BLOCK > SMALL) == large


UNITS = st.one_of(st.integers(1, 40), st.integers(1, SMALL), st.integers(SMALL + 1, 60 * SMALL))
ACTIONS = st.lists(st.one_of(UNITS, st.integers(-30, -1)), max_size=60)


@given(ACTIONS)
def test_flat_pools_place_every_block_where_pools_do(actions):
    allocator = CachingAllocator()
    flat = FlatPool(SHIFT, small=True), FlatPool(SHIFT, small=False)
    alive, sizes, places = [], [], ([], [])
    for action in actions:
        if action > 0:
            row = len(sizes)
            sizes.append(action)
            for place in places:
                place.append(0)
            pool, block = allocator.allocate(action * BLOCK)
            flat[action > SMALL].play([row], sizes, places)
            assert (places[0][row] * BLOCK, places[1][row] * BLOCK) == (block.address, block.address + block.size)
            alive.append((row, pool, block))
        elif alive:
            row, pool, block = alive.pop(action % len(alive))
            pool.free(block)
            flat[sizes[row] > SMALL].play([~row], sizes, places)
        assert [pool.reserved * BLOCK for pool in flat] == [allocator.small.reserved, allocator.large.reserved]


class _Stretch:
    """The events of a stretch, and what it needs."""

    def __init__(self, rows, waste):
        self.rows, self.waste = rows, waste
        self.events, self.alive = [], []
        self.quick, self.needs, self._total = 0, {}, 0

    def act(self, action):
        """Allocate a tensor of a positive size, or free one."""
        if action > 0:
            row = self.rows.add(action)
            size, count = self.rows.sizes[row], len(self.alive)
            self.quick = max(self.quick, self._total + (count + 1) * size)
            self.needs[size] = max(self.needs.get(size, 0), self._total + count * (size - 1))
            self._total += size + self.waste
            self.alive.append(row)
            self.events.append(row)
        elif self.alive:
            row = self.alive.pop(action % len(self.alive))
            self._total -= self.rows.sizes[row] + self.waste
            self.events.append(~row)


@given(ACTIONS, ACTIONS, st.booleans())
def test_transients_that_are_served_for_certain_add_no_segment_and_leave_no_trace(before, stretch, large):
    """Whatever is free, and in whatever order they come and go."""
    pool, rows = FlatPool(SHIFT, small=not large), _Rows(large=large)
    for action in before:
        rows.act(pool, action)
    begun, reserved, kept = pool.free_blocks(), pool.reserved, set(rows.alive)
    listed = _Stretch(rows, pool.waste)
    for action in stretch:
        listed.act(action)
    certain = pool.serves(Need(listed.quick, listed.needs))
    pool.play([*listed.events, *(~row for row in listed.alive)], rows.sizes, rows.places)
    assert kept == set(rows.alive)
    if certain:
        assert (pool.free_blocks(), pool.reserved) == (begun, reserved)


class _Merging(Need):
    """The need of a stretch that frees tensors that were allocated before."""

    def merges(self):
        return True


@given(ACTIONS, ACTIONS, st.lists(st.integers(0, 60), min_size=1, max_size=8), st.booleans())
def test_stretches_that_are_served_for_certain_add_no_segment_where_free_blocks_merge(before, stretch, freed, large):
    """Earlier tensors are freed in between."""
    pool, rows = FlatPool(SHIFT, small=not large), _Rows(large=large)
    for action in before:
        rows.act(pool, action)
    listed, earlier = _Stretch(rows, pool.waste), rows.alive.copy()
    for at, action in enumerate(stretch):
        listed.act(action)
        if at % 3 == 0 and freed and earlier:
            listed.events.append(~earlier.pop(freed.pop() % len(earlier)))
    certain, reserved = pool.serves(_Merging(listed.quick, listed.needs)), pool.reserved
    pool.play(listed.events, rows.sizes, rows.places)
    assert not certain or pool.reserved == reserved


def test_free_blocks_that_merge_count_as_one_segment():
    """The tensor between them is freed. Then one of 8 leaves no room for a request of 8 in blocks of 8 and 9."""
    sizes, places = [3, 8, 2, 7, 8, 8], ([9, 0, 0, 0, 0, 0], [12, 0, 0, 0, 0, 0])
    events = [~0, 1, ~1, 2, ~2, 3, 4, ~3, 5]
    pools = [FlatPool(SHIFT, small=True) for _ in range(3)]
    for pool, starts in zip(pools, ([1], [1], [1, 12]), strict=True):
        pool.next_address, pool.segments = 1000, [20 << SHIFT | start for start in starts]
        pool.set_free([8 << SHIFT | 1, 9 << SHIFT | 12])
    served = [Need(15, {8: 8 + 7}), _Merging(15, {8: 8 + 7}), _Merging(15, {8: 8 + 7})]
    assert [pool.serves(need) for pool, need in zip(pools, served, strict=True)] == [True, False, True]
    pools[0].play(events, sizes, places)
    assert len(pools[0].segments) == 2


def test_a_request_is_served_if_fewer_transients_are_alive_than_blocks_are_free():
    """Each block that serves no request of 9 units has a transient in it."""
    served = [FlatPool(SHIFT, small=True) for _ in range(2)]
    need = Need(31, {9: 2 * 8 + 4})
    for count, pool in enumerate(served, 2):
        pool.set_free([10 << SHIFT | 20 * n for n in range(count)])
    assert [pool.serves(need) for pool in served] == [False, True]


def test_a_smaller_request_may_not_be_served_if_a_larger_one_is():
    """Three blocks of 10 units serve a request of 10 with two transients alive, but not a request of 5 with four."""
    pool = FlatPool(SHIFT, small=True)
    pool.set_free([10 << SHIFT | 20 * n for n in range(3)])
    larger, both = Need(60, {10: 29}), Need(60, {10: 29, 5: 20})
    assert pool.serves(larger)
    assert not pool.serves(both)


class _Rows:
    def __init__(self, *, large):
        self.large, self.sizes, self.places, self.alive = large, [], ([], []), []

    def add(self, units):
        self.sizes.append(SMALL + 1 + units if self.large else (units - 1) % SMALL + 1)
        for place in self.places:
            place.append(0)
        return len(self.sizes) - 1

    def act(self, pool, action):
        if action > 0:
            row = self.add(action)
            pool.play([row], self.sizes, self.places)
            self.alive.append(row)
        elif self.alive:
            pool.play([~self.alive.pop(action % len(self.alive))], self.sizes, self.places)


@given(ACTIONS, ACTIONS)
def test_a_restored_pool_has_what_was_free_and_the_segments_that_were_added(before, behind):
    pool, rows = FlatPool(SHIFT, small=False), _Rows(large=True)
    for action in before:
        rows.act(pool, action)
    saved, earlier = pool.save(), len(rows.alive)
    later = [rows.add(action) for action in behind if action > 0]
    pool.play(later, rows.sizes, rows.places)
    kept = later[::3]
    pool.play([~row for row in later if row not in kept], rows.sizes, rows.places)
    expected = pool.free_blocks()
    pool.restore(saved)
    pool.take([(rows.places[0][row], rows.places[1][row]) for row in kept])
    assert pool.free_blocks() == expected
    assert len(rows.alive) == earlier


@given(ACTIONS, st.lists(st.integers(0, 60)), st.booleans())
def test_blocks_freed_together_leave_the_same_pool_as_blocks_freed_one_by_one(before, freed, large):
    pool, rows = FlatPool(SHIFT, small=not large), _Rows(large=large)
    for action in before:
        rows.act(pool, action)
    gone = sorted({place % len(rows.alive) for place in freed}) if rows.alive else []
    blocks = [(rows.places[0][rows.alive[place]], rows.places[1][rows.alive[place]]) for place in gone]
    saved = pool.save()
    pool.free(blocks)
    at_once = pool.save()
    pool.restore(saved)
    pool.play([~rows.alive[place] for place in gone], rows.sizes, rows.places)
    assert pool.save() == at_once


@given(ACTIONS, st.lists(UNITS, max_size=30), st.booleans())
def test_requests_that_are_freed_last_are_served_where_no_segment_is_added(before, requests, large):
    pool, rows = FlatPool(SHIFT, small=not large), _Rows(large=large)
    for action in before:
        rows.act(pool, action)
    begun, reserved = pool.free_blocks(), pool.reserved
    later = [rows.add(units) for units in requests]
    sizes, other = [rows.sizes[row] for row in later], pool.copied()
    served = pool.serves_all(sizes)
    other.allocate_and_free([(sizes, 1)])
    pool.play(later, rows.sizes, rows.places)
    assert served == (pool.reserved == reserved)
    pool.free([(rows.places[0][row], rows.places[1][row]) for row in later])
    assert not served or pool.free_blocks() == begun
    assert all(getattr(other, slot) == getattr(pool, slot) for slot in FlatPool.__slots__)


@given(ACTIONS, st.lists(UNITS, max_size=12), st.integers(1, 9), st.integers(1, 3), st.booleans())
def test_requests_that_are_never_freed_are_placed_where_they_are_one_by_one(before, requests, run, times, large):
    pool, rows = FlatPool(SHIFT, small=not large), _Rows(large=large)
    for action in before:
        rows.act(pool, action)
    later = [rows.add(units) for _ in range(times) for units in requests for _ in range(run)]
    sizes, other, reserved = [rows.sizes[row] for row in later], pool.copied(), pool.reserved
    is_served = pool.serves(Need.from_sizes(sizes))
    other.allocate(sizes[: len(sizes) // times], times)
    pool.play(later, rows.sizes, rows.places)
    assert all(getattr(other, slot) == getattr(pool, slot) for slot in FlatPool.__slots__)
    assert not is_served or pool.reserved == reserved


@given(ACTIONS, ACTIONS, st.booleans())
def test_a_step_that_repeats_an_earlier_one_adds_no_segment_and_ends_as_it_began(before, step, large):
    """With the segments of the earlier one, where these are used last."""
    pool, rows = FlatPool(SHIFT, small=not large), _Rows(large=large)
    for action in before:
        rows.act(pool, action)
    earlier = StartState(pool, [])
    for _ in range(2):
        rows.alive = []
        for action in step:
            rows.act(pool, action)
        pool.play([~row for row in rows.alive], rows.sizes, rows.places)
        again = StartState(pool, [])
        if again.repeats(earlier):
            break
        earlier = again
    else:
        return
    reserved, places = pool.reserved, []
    for _ in range(2):
        rows.alive, start = [], len(rows.sizes)
        for action in step:
            rows.act(pool, action)
        places.append([place[start:] for place in rows.places])
        pool.play([~row for row in rows.alive], rows.sizes, rows.places)
    assert places[0] == places[1]
    assert (pool.reserved, pool.free_blocks()) == (reserved, again.free)


def test_a_segment_that_is_smaller_than_another_free_block_is_used_before_it():
    """So that a step which begins with one more of them does not repeat the step that added it."""
    pool = FlatPool(SHIFT, small=False)
    pool.free(_allocate(pool, [60 * MIB // BLOCK]))
    earlier, step = StartState(pool, []), [20 * MIB // BLOCK, 50 * MIB // BLOCK]
    first = _allocate(pool, step)
    pool.free(first)
    assert not StartState(pool, []).repeats(earlier)
    assert _allocate(pool, step) != first


def test_a_pool_that_begins_a_step_as_an_earlier_one_is_not_played_again():
    run = FastReplay(resident_of(LLAMA_8B), WORKSPACES[CARDS[0]])
    run.load()
    for _ in range(5):
        run.step()
    assert run.is_repeating[1]
    assert run.reserved == full_peak_reserved(resident_of(LLAMA_8B), WORKSPACES[CARDS[0]])


def test_most_tensors_of_a_llama_are_transients():
    batch = MicroBatch(unrolled(resident_of(LLAMA_8B).prepared), None)
    items = [item for passes in batch.passes for items in passes for item in items]
    gaps, placed = (sum(len(getattr(item.chunk, name)) for item in items) for name in ("gap", "placed"))
    assert gaps > placed


def test_a_replay_of_an_8b_model_executes_less_than_265000_lines():
    resident = resident_of(LLAMA_8B)
    assert executed_lines(lambda: peak_reserved(resident, WORKSPACES[CARDS[0]])) < 265_000


def test_segments_are_measured_in_bytes():
    pool = FlatPool(SHIFT, small=False)
    pool.play([0], [3 * MIB // BLOCK], ([0], [0]))
    assert pool.reserved * BLOCK == 20 * MIB
