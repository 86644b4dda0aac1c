"""Moves of a pool's segments to lower addresses, which close the gaps that released segments left.

Only the order of addresses matters. Replays that reach the same addresses can share what follows.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.allocator.flat_pool import FlatPool


class Moves:
    """Distances by which the addresses of a pool become lower."""

    __slots__ = ("_distances", "_end", "_first", "_starts")

    def __init__(self, starts: Sequence[int], distances: Sequence[int], end: int) -> None:
        """Set up moves. From each of `starts` on, addresses become lower by the distance of the same index.

        Those from `end` on are in other pools.
        """
        self._starts = starts
        self._distances = distances
        self._first = starts[1]
        self._end = end

    def moved(self, address: int) -> int:
        """Return an address after the moves."""
        if self._first <= address < self._end:
            return address - self._distances[bisect_right(self._starts, address) - 1]
        return address

    def moved_keys(self, keys: Iterable[int], mask: int) -> Iterator[int]:
        """Yield keys with their addresses after the moves. `mask` has the bits of an address."""
        for key in keys:
            address = key & mask
            yield key - address + self.moved(address)


def has_gaps(pool: FlatPool) -> bool:
    """Return whether segments between other ones were released."""
    if not pool.segments:
        return False
    size = sum([key >> pool.shift for key in pool.segments]) + len(pool.segments)
    return (pool.segments[0] & pool.mask) + size != pool.next_address


def close_gaps(pool: FlatPool) -> Moves:
    """Move segments to lower addresses so that each follows the one before it. Return the moves."""
    starts, distances, address = list[int](), list[int](), 0
    for key in pool.segments:
        start = key & pool.mask
        address = address or start
        if start - address not in distances[-1:]:
            starts.append(start)
            distances.append(start - address)
        address += (key >> pool.shift) + 1
    moves = Moves(starts, distances, pool.next_address)
    pool.moved(moves, address)
    return moves
