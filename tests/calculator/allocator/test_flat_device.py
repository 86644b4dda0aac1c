"""A device whose pools are played one after the other, against the order of its events."""

from itertools import cycle, islice

from hypothesis import given
from hypothesis import strategies as st

from calculator.allocator.chunks import pools_of
from calculator.allocator.flat_device import SMALL, FlatDevice
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import BLOCK

#: Bits of an address in these tests' pools.
SHIFT = 40

UNITS = st.one_of(st.integers(1, 40), st.integers(1, SMALL), st.integers(SMALL + 1, 30 * SMALL))
ACTIONS = st.lists(st.one_of(UNITS, st.integers(-30, -1)), max_size=40)


def events_of(actions, sizes, alive):
    """Allocate a size, or free one of the rows that are alive."""
    for action in actions:
        if action > 0:
            sizes.append(action)
            alive.append(len(sizes) - 1)
            yield alive[-1]
        elif alive:
            yield ~alive.pop(action % len(alive))


@given(ACTIONS, ACTIONS, st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 60 * SMALL))
def test_pools_replayed_separately_end_as_in_the_order_of_events_unless_a_segment_is_refused(
    before, stage, streams, spare
):
    sizes, alive = [], []
    begun, events = [*events_of(before, sizes, alive)], [*events_of(stage, sizes, alive)]
    device, places = FlatDevice(SHIFT, 6), ([0] * len(sizes), [0] * len(sizes))
    keys = pools_of(sizes, [*islice(cycle(streams), len(sizes))])
    device.play(begun, sizes, keys, places)
    device.capacity = (device.reserved + spare) * BLOCK
    other, others = device.saved(), tuple(place.copy() for place in places)
    nothing = [((), ())] * 6
    found = device.layout(nothing, nothing)
    apart = tuple([event for event in events if keys[max(event, ~event)] == pool] for pool in range(6))
    played = device.play_separately(lambda number, pool: pool.play(apart[number], sizes, places))
    try:
        other.play(events, sizes, keys, others)
    except OutOfMemoryError:
        assert not played
    assert played == (not other.retries)
    if played:
        assert places == others
        assert (device.reserved, device.max_reserved) == (other.reserved, other.max_reserved)
        assert device.layout(nothing, nothing) == other.layout(nothing, nothing)
    else:
        assert device.layout(nothing, nothing) == found
