"""A cache of what the parts of a run's steps leave in each pool.

A part leaves the same state if the pool has the same free blocks, and the tensors that the part frees are in the same
places. If the part adds segments, the next address must be the same too. Replays of a run with several capacities often
reach equal states, because most differ in few large segments and hardly in the pool of small tensors.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed, Places
    from calculator.allocator.parts import Part, Rows

    #: A function that reads the places of some rows from those of all rows.
    Reader = Callable[[Sequence[int]], object]

#: The maximum number of results that are cached for a run. Each takes about twenty kilobytes.
MAX_KNOWN = 2048


class Left:
    """The state of a pool after a part, and the places of tensors that the part allocated and did not free."""

    __slots__ = ("_added", "_next_address", "_pool", "following", "placed")

    def __init__(self, before: FlatPool, pool: FlatPool, placed: Sequence[Placed]) -> None:
        self._next_address = before.next_address
        self._added = pool.segments[len(before.segments) :]
        self._pool = pool
        self.placed = placed
        #: The states after parts that start from this one, by the part and the places of what it frees.
        self.following: dict[Hashable, Left] = {}

    def pool(self, before: FlatPool) -> FlatPool | None:
        """Return this state as the successor of another pool with the same free blocks.

        Return None if segments would be added at other addresses.
        """
        if self._added and before.next_address != self._next_address:
            return None
        if not self._added:
            return self._pool.with_segments(before.segments, before.reserved, before.next_address)
        reserved = before.reserved + sum(key >> before.shift for key in self._added)
        return self._pool.with_segments([*before.segments, *self._added], reserved, self._pool.next_address)


class _PartRows(NamedTuple):
    """The rows of a part that it either frees or allocates, but not both, by pool.

    Attributes:
        freed: For each pool, reads the places of the rows that the part frees.
        left: For each pool, the rows that the part leaves allocated.
    """

    freed: Sequence[Reader]
    left: Sequence[Sequence[int]]


class KnownStages:
    """A cache of the states that the parts of a run leave, shared by all of its replays."""

    __slots__ = ("_count", "_results", "_rows")

    def __init__(self, count: int) -> None:
        """Set up an empty cache.

        `count`: the number of pools.
        """
        self._count = count
        self._results: dict[Hashable, Left] = {}
        #: The rows of each part, by its identity. The part is stored with them, so that its identity stays unique.
        self._rows: dict[int, tuple[Part, _PartRows]] = {}

    def of(self, part: Part, rows: Rows, places: Places, before: list[Left | None]) -> KnownStage:
        """Return the cached results of a part, for a replay whose rows have these places.

        `before` has the cached state of each pool before the part. It is replaced by the state after it.
        """
        if id(part) not in self._rows:
            allocated, freed = (_by_pool(each, rows, self._count) for each in part.net())
            self._rows[id(part)] = part, _PartRows([*map(_reader, freed)], allocated)
        return KnownStage(self._results, id(part), self._rows[id(part)][1], places, before)


class KnownStage:
    """The cached results of a part, for one replay."""

    __slots__ = ("_before", "_found", "_part", "_places", "_results", "_rows")

    def __init__(
        self,
        results: dict[Hashable, Left],
        part: int,
        rows: _PartRows,
        places: Places,
        before: list[Left | None],
    ) -> None:
        self._results = results
        self._part = part
        self._rows = rows
        self._places = places
        self._before = before
        self._found: tuple[Hashable, Hashable] = None, None

    def left(self, number: int, pool: FlatPool) -> FlatPool | None:
        """Return the pool after the part, and write the places of its rows.

        Return None if the result is not cached.
        """
        addresses, behinds = self._places
        before, read = self._before[number], self._rows.freed[number]
        key = self._part, number, read(addresses), read(behinds)
        result = before.following.get(key) if before is not None else None
        after = result.pool(pool) if result is not None else None
        if after is None:
            self._found = key, tuple(pool.free_keys)
            result = self._results.get(self._found)
            after = result.pool(pool) if result is not None else None
        if result is None or after is None:
            return None
        self._follow(number, key, result)
        for row, (address, behind) in zip(self._rows.left[number], result.placed, strict=True):
            addresses[row], behinds[row] = address, behind
        return after

    def add(self, number: int, before: FlatPool, pool: FlatPool) -> None:
        """Cache the pool after the part, for which `left` returned None. The pool must not change from now on."""
        if len(self._results) < MAX_KNOWN:
            addresses, behinds = self._places
            placed = [(addresses[row], behinds[row]) for row in self._rows.left[number]]
            result = self._results[self._found] = Left(before, pool, placed)
            self._follow(number, self._found[0], result)
        else:
            self._before[number] = None

    def _follow(self, number: int, key: Hashable, result: Left) -> None:
        before, self._before[number] = self._before[number], result
        if before is not None:
            before.following[key] = result


def _by_pool(of: Iterable[int], rows: Rows, count: int) -> list[list[int]]:
    pools: list[list[int]] = [[] for _ in range(count)]
    for row in of:
        pools[rows.keys[row]].append(row)
    return pools


def _reader(rows: Sequence[int]) -> Reader:
    return itemgetter(*rows) if rows else lambda _: None
