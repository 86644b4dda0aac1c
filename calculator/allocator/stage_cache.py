"""A cache of the state of each pool after the parts of a run's steps.

The state is the same if the pool has the same free blocks, and the tensors that the part frees are in the same
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
MAX_RESULTS = 2048


class StageResult:
    """The state of a pool after a part, and the places of tensors that the part allocated and did not free."""

    __slots__ = ("_added", "_next_address", "_pool", "following", "placed")

    def __init__(self, before: FlatPool, pool: FlatPool, placed: Sequence[Placed]) -> None:
        self._next_address = before.next_address
        self._added = pool.segments[len(before.segments) :]
        self._pool = pool
        self.placed = placed
        #: The states after parts that start from this one, by the part and the places of what it frees.
        self.following: dict[Hashable, StageResult] = {}

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
        remaining: For each pool, the rows that are allocated after the part.
    """

    freed: Sequence[Reader]
    remaining: Sequence[Sequence[int]]


class StageCache:
    """A cache of the pools' states after the parts of a run, shared by all of its replays."""

    __slots__ = ("_count", "_results", "_rows")

    def __init__(self, count: int) -> None:
        """Set up an empty cache.

        `count`: the number of pools.
        """
        self._count = count
        self._results: dict[Hashable, StageResult] = {}
        #: The rows of each part, by its identity. The part is stored with them, so that its identity stays unique.
        self._rows: dict[int, tuple[Part, _PartRows]] = {}

    def of(self, part: Part, rows: Rows, places: Places, before: list[StageResult | None]) -> CachedStage:
        """Return the cached results of a part, for a replay whose rows have these places.

        `before` has the cached state of each pool before the part. It is replaced by the state after it.
        """
        if id(part) not in self._rows:
            allocated, freed = (_by_pool(changed, rows, self._count) for changed in part.net())
            self._rows[id(part)] = part, _PartRows([*map(_reader, freed)], allocated)
        return CachedStage(self._results, id(part), self._rows[id(part)][1], places, before)


class CachedStage:
    """The cached results of a part, for one replay."""

    __slots__ = ("_before", "_found", "_part", "_places", "_results", "_rows")

    def __init__(
        self,
        results: dict[Hashable, StageResult],
        part: int,
        rows: _PartRows,
        places: Places,
        before: list[StageResult | None],
    ) -> None:
        self._results = results
        self._part = part
        self._rows = rows
        self._places = places
        self._before = before
        self._found: tuple[Hashable, Hashable] = None, None

    def lookup(self, number: int, pool: FlatPool) -> FlatPool | None:
        """Return the pool after the part, and write the places of its rows.

        Return None if the result is not cached.
        """
        addresses, end_addresses = self._places
        before, read = self._before[number], self._rows.freed[number]
        key = self._part, number, read(addresses), read(end_addresses)
        result = before.following.get(key) if before is not None else None
        after = result.pool(pool) if result is not None else None
        if after is None:
            self._found = key, tuple(pool.free_keys)
            result = self._results.get(self._found)
            after = result.pool(pool) if result is not None else None
        if result is None or after is None:
            return None
        self._follow(number, key, result)
        for row, (address, behind) in zip(self._rows.remaining[number], result.placed, strict=True):
            addresses[row], end_addresses[row] = address, behind
        return after

    def add(self, number: int, before: FlatPool, pool: FlatPool) -> None:
        """Cache the pool after the part, for which `lookup` returned None. The pool must not change afterwards."""
        if len(self._results) < MAX_RESULTS:
            addresses, end_addresses = self._places
            placed = [(addresses[row], end_addresses[row]) for row in self._rows.remaining[number]]
            result = self._results[self._found] = StageResult(before, pool, placed)
            self._follow(number, self._found[0], result)
        else:
            self._before[number] = None

    def _follow(self, number: int, key: Hashable, result: StageResult) -> None:
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
