"""The updates of modules by adapters, whose events leave the free blocks as they were.

LoRA computes an adapted module's output in the adapter's dtype and casts it back. It allocates the update and the
scaled update, frees the first, allocates the sum, frees the second, frees the module's own output, allocates the new
output, and frees the sum. The first three tensors have one size, and both outputs have one size.

The new output takes the place of the old one if that has no free neighbors, and no free block comes before it that
serves the request. All else is free again afterwards. So the events need not be played if it is known where the three
tensors are placed:

1. The first one begins the first free block that serves it. The sum, requested when the first one is freed, does too.
2. The second one follows in the same block if that has room for two. Otherwise it begins the next free block. What
   remains of this one must not come before the first block among those that serve the sum.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.flat_pool import FlatPool, Places

    #: Events that are divided at updates: each update, and the events after the last one.
    Divided = tuple[list["Update"], Sequence[int]]

#: The number of events of an update.
EVENTS = 8


class Update(NamedTuple):
    """An update, and the events between the previous one and it.

    Attributes:
        before: The events before it.
        events: Its own events.
        size: The size of the update's tensors.
        wanted: The size of an output.
        freed: The row of the old output.
        output: The row of the new one.
    """

    before: Sequence[int]
    events: Sequence[int]
    size: int
    wanted: int
    freed: int
    output: int


def updates(events: Sequence[int], sizes: Sequence[int]) -> list[int]:
    """Return where updates begin among events, counted from the end."""
    count = len(events)
    return [
        at - count
        for at, (first, freed) in enumerate(zip(events, events[2:], strict=False))
        if freed == ~first and at + EVENTS <= count and _is_update(events[at : at + EVENTS], sizes)
    ]


def _is_update(events: Sequence[int], sizes: Sequence[int]) -> bool:
    first, second, _, total, freed_second, freed_output, output, freed_total = events
    return (
        min(first, second, total, output) >= 0
        and (freed_second, freed_total) == (~second, ~total)
        and freed_output < 0
        and sizes[first] == sizes[second] == sizes[total]
        and sizes[~freed_output] == sizes[output]
    )


def play_updates(
    pool: FlatPool, sizes: Sequence[int], places: Places, events: Sequence[int], starts: Sequence[int]
) -> None:
    """Play events with updates at `starts`, counted from the end.

    Tensors that only exist during an update may get no place.
    """
    addresses, end_addresses = places
    at, count = 0, len(events)
    for start in starts:
        begin = count + start
        pool.play(events[at:begin], sizes, places)
        at = begin
        freed = ~events[begin + 5]
        address, end = addresses[freed], end_addresses[freed]
        if _takes_its_place(pool, sizes[events[begin]], sizes[freed], address, end):
            output = events[begin + 6]
            addresses[output], end_addresses[output] = address, end
            at = begin + EVENTS
    pool.play(events[at:], sizes, places)


def divided(events: Sequence[int], sizes: Sequence[int], starts: Iterable[int]) -> Divided:
    """Divide events at updates, which begin at `starts`."""
    found, at = list[Update](), 0
    for start in starts:
        own = events[start : start + EVENTS]
        freed, output = ~own[5], own[6]
        found.append(Update(events[at:start], own, sizes[own[0]], sizes[freed], freed, output))
        at = start + EVENTS
    return found, events[at:]


def play_divided(pool: FlatPool, sizes: Sequence[int], places: Places, events: Divided) -> None:
    """Play events as `play_updates` does."""
    addresses, end_addresses = places
    found, after = events
    for before, own, size, wanted, freed, output in found:
        if before:
            pool.play(before, sizes, places)
        address, end = addresses[freed], end_addresses[freed]
        if _takes_its_place(pool, size, wanted, address, end):
            addresses[output], end_addresses[output] = address, end
        else:
            pool.play(own, sizes, places)
    pool.play(after, sizes, places)


def _takes_its_place(pool: FlatPool, size: int, wanted: int, address: int, end: int) -> bool:
    """Return whether an update's output is known to be placed where the old one is.

    `size` is that of the update, and `wanted` that of an output.
    """
    free, edges, shift = pool.free_keys, pool.edges, pool.shift
    at = bisect_left(free, size << shift)
    if address in edges or at == len(free):
        return False
    first = free[at]
    start, rest = first & ((1 << shift) - 1), (first >> shift) - size
    if rest < size and (at + 1 == len(free) or size <= (free[at + 1] >> shift) - size <= size + rest):
        return False
    key, merged = end - address << shift | address, 0
    if end in edges and end != start:
        merged = edges[end] - end << shift | end
        if end - address != wanted or merged >> shift <= pool.waste:
            return False
        key = edges[end] - address << shift | address
    least, before = wanted << shift, bisect_left(free, key) - 1
    while before >= 0 and free[before] >= least:
        if before != at and free[before] != merged:
            return False
        before -= 1
    return not least <= rest << shift | start + size < key
