"""Requests of layers whose tensors are never freed. Layers that are placed like an earlier one are placed at once.

If the free blocks before a layer are those before an earlier layer, and those from some address on are higher by the
size that was added since, the order of blocks by size and address is the same. So what was placed between the two
layers is placed again in the same way, at higher addresses. Blocks that are smaller than every request do not matter.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.allocator.flat_pool import FlatPool, Layer

    #: The state of a pool where a layer starts: the layer's number, the keys of free blocks, the number of those that
    #: are smaller than every request, the number of segments, and the address of the next segment.
    Start = tuple[int, list[int], int, int, int]

#: The maximum number of comparisons without success.
_ATTEMPTS = 8


def place_layers(pool: FlatPool, place: Callable[[], None], times: int, least: int) -> None:
    """Place layers, which request the same. `place` places one.

    `least` is the size of the smallest request.
    """
    #: The last start by how many blocks may serve requests, and by where the smallest and the largest of them are.
    starts: dict[tuple[int, int, int], Start] = {}
    number, attempts, address, least = 0, _ATTEMPTS, pool.next_address, least << pool.shift
    while number < times:
        if attempts and pool.next_address > address:
            free, address = pool.free_keys, pool.next_address
            small = bisect_left(free, least)
            count = len(free) - small
            look = (count, free[small] - address, free[-1] - address) if count else (0, 0, 0)
            earlier = starts.get(look)
            starts[look] = later = number, free.copy(), small, len(pool.segments), address
            if earlier is not None:
                placed = _repeat(pool, earlier, later, times)
                attempts = 0 if placed else attempts - 1
                number += placed
                continue
        place()
        number += 1


def _repeat(pool: FlatPool, earlier: Start, later: Start, most: int) -> int:
    """Place layers like those between two starts, up to the number `most`. Return how many were placed."""
    first, before, small_before, segments, address = earlier
    last, now, small, _, next_address = later
    by, mask = next_address - address, (1 << pool.shift) - 1
    edge = min([key & mask for key in {*before[small_before:]}.difference(now)], default=address)
    if sorted([key + by if key & mask >= edge else key for key in before[small_before:]]) != now[small:]:
        return 0
    times = (most - last) // (last - first)
    left = {*now[:small]}.difference(before)
    more = [key + n * by for n in range(1, times + 1) for key in left]
    moved = [key + times * by if key & mask >= edge else key for key in now[small:]]
    pool.free_keys = sorted([*now[:small], *more, *moved])
    pool.add_again(segments, times, by)
    return times * (last - first)


def unserved(free: list[int], layers: Iterable[Layer], place: Callable[[list[int]], Iterable[int]]) -> list[int]:
    """Return the requests for which segments are added if none is freed before the last.

    `free` has the sizes of free blocks. `place` places requests of one layer, and returns those for which it adds
    segments.

    A block of the largest size serves a request if no other block does. So a layer is placed like an earlier one if
    the free blocks are the same, or if no segment was added, only the number of largest blocks has become smaller, and
    as many are left as were used since.
    """
    found = list[int]()
    for sizes, times in layers:
        starts: dict[tuple[int, ...], tuple[int, int, int]] = {}
        number = 0
        while number < times:
            first = bisect_left(free, free[-1]) if free else 0
            look, left = (*free[:first], *free[-1:]), len(free) - first
            start, left_before, found_before = starts.get(look, (number, left, 0))
            starts[look] = number, left, len(found)
            used, period, added = left_before - left, number - start, found[found_before:]
            if period and ((used > 0 and not added) or not used):
                repeated = min((times - number) // period, left // used if used else times)
                del free[len(free) - repeated * used :]
                found += added * repeated
                number += repeated * period
            if number < times:
                found += place(sizes)
                number += 1
    return found
