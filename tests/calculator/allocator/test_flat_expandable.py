"""Expandable segments as flat lists: every block is where the allocator places it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from calculator.allocator.alloc_conf import AllocConf
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.flat_expandable import SMALL, FlatExpandable
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT, MIB, SMALL_SEGMENT

#: Bits of an address that none of these segments reaches.
BITS = 24
UNITS = st.one_of(st.integers(1, 40), st.integers(1, SMALL), st.integers(SMALL + 1, 60 * SMALL))
ACTIONS = st.lists(st.one_of(UNITS, UNITS, st.integers(-30, -1)), max_size=80)
CAPACITIES = st.integers(10, 120).map(lambda pages: 2 * pages * MIB)


@given(ACTIONS, CAPACITIES, st.integers(0, 40).map(lambda units: units * MIB))
def test_blocks_are_where_the_allocator_places_them(actions, capacity, unusable):
    total = capacity + unusable
    allocator = CachingAllocator(AllocConf(expandable_segments=True), capacity=capacity, total=total)
    flat = FlatExpandable(BITS)
    flat.set_capacity(capacity, total)
    alive, sizes, places = [], [], ([], [])
    for action in actions:
        if action > 0:
            row = len(sizes)
            sizes.append(action)
            for place in places:
                place.append(0)
            failure = None
            try:
                pool, block = allocator.allocate(action * BLOCK)
            except OutOfMemoryError as error:
                failure = vars(error) | {"row": row}
            if failure is not None:
                with pytest.raises(OutOfMemoryError) as found:
                    flat.play([row], sizes, flat.keys(sizes), places)
                assert vars(found.value) == failure
                continue
            flat.play([row], sizes, flat.keys(sizes), places)
            assert _address(places[0][row], total, large=action > SMALL) == block.address
            assert (places[1][row] - places[0][row]) * BLOCK == block.size
            alive.append((row, pool, block))
        elif alive:
            row, pool, block = alive.pop(action % len(alive))
            pool.free(block)
            flat.play([~row], sizes, flat.keys(sizes), places)
        assert (flat.reserved * BLOCK, flat.retries) == (allocator.reserved, allocator.retries)


def _address(unit, total, *, large):
    """The allocator's address of a block: its segments begin at 0 and have no page between them."""
    page = LARGE_SEGMENT if large else SMALL_SEGMENT
    space = -(-(total + total // 8) // page) * page
    first = -(-(1 << BITS + 4) * BLOCK // page) * page if large else page
    address = unit * BLOCK - first
    return address - address // (space + page) * page


@given(ACTIONS)
def test_a_saved_device_continues_like_the_original(actions):
    """On a device of limited memory, from where it is the same as on one without a limit."""
    devices = [FlatExpandable(BITS), FlatExpandable(BITS)]
    devices[1].set_capacity(1000 * MIB, 1100 * MIB)
    sizes = [action for action in actions if action > 0]
    both = [([0] * len(sizes), [0] * len(sizes)) for _ in devices]
    half = len(sizes) // 2
    keys = devices[0].keys(sizes)
    for device, places in zip(devices, both, strict=True):
        device.play([*range(half), *(~row for row in range(0, half, 2))], sizes, keys, places)
    if devices[0].reserved * BLOCK > 1000 * MIB:
        return
    resumed = devices[0].saved()
    resumed.set_capacity(1000 * MIB, 1100 * MIB)
    ends = []
    for device, places in ((resumed, both[0]), (devices[1], both[1])):
        try:
            device.play(range(half, len(sizes)), sizes, keys, places)
        except OutOfMemoryError as error:
            ends.append(vars(error))
        ends.append((device.reserved, device.retries, device.layout([], [])))
    assert ends[: len(ends) // 2] == ends[len(ends) // 2 :]
    assert both[0] == both[1]
