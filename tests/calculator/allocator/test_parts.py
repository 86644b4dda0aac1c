"""The parts of a step: all its events, and played pool by pool the same figures as event by event."""

from itertools import islice

import pytest

from calculator.allocator.alloc_conf import parse_alloc_conf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.capacity import CappedReplays
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.flat_replay import FlatRun
from calculator.allocator.out_of_memory import DeviceMemory
from calculator.allocator.parts import Rows, TemporaryPart
from calculator.allocator.replay import Replay
from calculator.allocator.segments import MIB
from calculator.devices import library_workspace
from calculator.estimation.estimate import resident_state
from calculator.estimation.request import parse_request
from tests.calculator.allocator.test_replay import CHOSEN

WORKSPACES = tuple(part.bytes for part in library_workspace(None))
CHECKPOINTED = {
    "model": "meta-llama/Llama-3.2-1B",
    "method": {"name": "qlora", "target_modules": "all-linear"},
    "training": {"gradient_checkpointing": True},
}
SAMPLE = [*islice(CHOSEN.values(), 2, None, 9)]


def run_of(body):
    return Replay(CachingAllocator(), resident_state(parse_request(body)), WORKSPACES)


def name(case):
    return str(case["request"]["model"])[:40]


@pytest.mark.parametrize("case", SAMPLE, ids=name)
def test_parts_have_every_event_of_their_pass_and_the_first_step_the_workspaces(case):
    run = run_of(case["request"])
    flat = FlatRun(run)
    (batch, *_), passes = flat.batches, (run.first.forward, run.first.backward)
    rows = len(run.first.events.rows)
    for n, passed in enumerate(passes):
        first, later = (
            [event for part in parts[n] for event in part.events()] for parts in (batch.parts_of_first, batch.parts)
        )
        start = run.first.events.workspace_place(passed)
        assert later == [*passed]
        assert first == [*passed[:start], rows + n, *passed[start:]]


@pytest.mark.parametrize("conf", ["", "expandable_segments:True"])
@pytest.mark.parametrize("case", SAMPLE, ids=name)
def test_every_family_on_a_device_that_refuses_segments_equals_the_full_replay(case, conf):
    run, settings = run_of(case["request"]), parse_alloc_conf(conf)
    flat, full = CappedReplays(run, settings), CappedReplays(run, settings, flat=False)
    flat.share()
    peak = flat.unlimited_bytes(device_of)
    for part in (0.985, 0.93):
        device = device_of(int(peak * part))
        assert flat.within(device) == full.within(device)


def device_of(capacity):
    return DeviceMemory(capacity=capacity, total=capacity + 512 * MIB, context=512 * MIB)


def test_transients_that_fit_for_certain_are_not_placed():
    """In a part in which no segment is refused."""
    flat, counted = FlatRun(run_of(CHECKPOINTED)), Counted()
    for stage in flat.stages[2]:
        for large in (0, 1):
            stage.part.play(large, counted, stage.rows.sizes, ([], []))
    assert counted.events < 0.7 * sum(len(stage.part.events()) for stage in flat.stages[2])


class Counted:
    """A pool with room for everything, which counts what is placed."""

    events = 0

    def play(self, events, *_):
        self.events += len(events)

    def serves(self, *_):
        return True

    def serves_all(self, _):
        return True


@pytest.mark.parametrize(("count", "played"), [(2, 0), (3, 6)])
def test_temporaries_are_not_placed_where_free_blocks_serve_them_all(count, played):
    """Two blocks of 9 units serve two requests of 9, though their sum does not say so."""
    pool = Played(30, small=True)
    places = [0] * 4, [0] * 4
    FlatPool.play(pool, [0, 1, 2, 3, ~0, ~2], [9, 10, 9, 4068], places)
    rows = Rows()
    requested = rows.add([9] * count, str)
    rows.keys = [0] * count
    TemporaryPart(requested, rows).play(0, pool, rows.sizes, places)
    assert pool.events == played


class Played(FlatPool):
    """A pool that counts the events it is given."""

    events = 0

    def play(self, events, *_):
        self.events += len(events)
