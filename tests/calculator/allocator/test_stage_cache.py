"""Replays that share a cache of stages, compared with replays without one."""

from random import Random

import pytest

from calculator.allocator.capacity import CappedReplays
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.segment_moves import close_gaps, has_gaps
from calculator.allocator.segments import BLOCK, MIB
from calculator.allocator.stage_cache import CachedStage
from calculator.estimation.request import parse_request
from tests.calculator.allocator.test_capacity import FULL, GIB, LLAMA, LORA, device_of, live, run_of
from tests.calculator.random_plans import plans

PAGE = 2 * MIB
ACCUMULATED = LLAMA | {"method": {"name": "full"}, "training": {"gradient_accumulation_steps": 3}}
DDP = LORA | {"device": {"gpu": "h100", "count": 4, "sharding": "ddp"}}


@pytest.fixture
def lookups(monkeypatch):
    """The number of cached stages, and of stages that are not cached."""
    counts, lookup = {True: 0, False: 0}, CachedStage.lookup

    def counted(self, number, pool):
        result = lookup(self, number, pool)
        counts[result is not None] += 1
        return result

    monkeypatch.setattr(CachedStage, "lookup", counted)
    return counts


def all_agree(request, chance, count):
    run, alive = run_of(request), live(request)
    sharing = CappedReplays(run)
    sharing.share()
    most = sharing.within(device_of(10_000 * GIB)).peak_reserved_bytes
    for _ in range(count):
        start = chance.randrange(int(alive * 0.99), most)
        for page in range(3):
            device = device_of(start - page * PAGE)
            assert sharing.within(device) == CappedReplays(run, flat=page > 0).within(device)


@pytest.mark.parametrize("body", [LORA, FULL, ACCUMULATED, DDP], ids=["lora", "full", "accumulated", "ddp"])
def test_replays_with_a_shared_cache_equal_replays_without_one(body, lookups):
    all_agree(parse_request(body), Random(29), 2)
    assert lookups[True] > 20


def test_replays_of_random_plans_with_a_shared_cache_equal_replays_without_one(lookups):
    for request in plans(seed=31, count=3):
        all_agree(request, Random(37), 2)
    assert lookups[True] > 50


def test_segments_move_to_lower_addresses_if_those_between_them_are_released():
    """The order of free blocks and of segments stays the same, and so does what is adjacent."""
    pool, sizes = FlatPool(40, small=False, start=7), [40, 20, 30, 10]
    sizes = [size * MIB // BLOCK for size in sizes]
    places = [0] * 4, [0] * 4
    pool.play([0, 1, 2, 3, ~1], sizes, places)
    assert not has_gaps(pool)
    pool.release()
    assert has_gaps(pool)
    before = [address - places[0][0] for address in places[0]]
    moves = close_gaps(pool)
    after = [moves.moved(address) - places[0][0] for address in places[0]]
    assert not has_gaps(pool)
    assert before[2:] != after[2:] == [sizes[0] + 1, sizes[0] + sizes[2] + 2]
    assert (after[0], moves.moved(pool.next_address << 1)) == (0, pool.next_address << 1)
    pool.play([~0, ~2, ~3], sizes, ([moves.moved(place) for place in places[0]], [*map(moves.moved, places[1])]))
    pool.release()
    assert (pool.reserved, pool.segments, pool.free_keys) == (0, [], [])
