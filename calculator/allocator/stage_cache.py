"""A cache of the state of each pool after the parts of a run's steps, and after blocks are freed between them.

The state is the same if the pool has the same free blocks, and the tensors that the part frees are in the same
places. If the part adds segments, the next address must be the same too. Replays of a run with several capacities often
reach equal states, because most differ in few large segments and hardly in the pool of small tensors.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from calculator.allocator.flat_pool import Blocks, FlatPool, Places
    from calculator.allocator.parts import Part, Rows

    #: A function that reads the addresses of some rows from those of all rows.
    Reader = Callable[[Sequence[int]], tuple[int, ...]]

#: The maximum number of results that are cached for a run. Each takes about twenty kilobytes.
MAX_RESULTS = 2048


class StageResult:
    """The state of a pool after a part, and the places of tensors that the part allocated and did not free."""

    __slots__ = ("_added", "_next_address", "_pool", "following", "placed")

    def __init__(self, before: FlatPool, pool: FlatPool, placed: Blocks) -> None:
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
        freed: For each pool, the rows that the part frees.
        remaining: For each pool, the rows that are allocated after the part.
        read_freed, read_remaining: For each pool, read the places of these rows.
    """

    freed: Sequence[Sequence[int]]
    remaining: Sequence[Sequence[int]]
    read_freed: Sequence[Reader]
    read_remaining: Sequence[Reader]

    @classmethod
    def of(cls, part: Part, rows: Rows, count: int) -> _PartRows:
        """Return the rows of a part in each of `count` pools."""
        remaining, freed = (by_pool(changed, rows, count) for changed in part.net())
        return cls(freed, remaining, [*map(reader, freed)], [*map(reader, remaining)])


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
            self._rows[id(part)] = part, _PartRows.of(part, rows, self._count)
        return CachedStage(self, id(part), self._rows[id(part)][1], places, before)

    def after(
        self, before: StageResult | None, pool: FlatPool, key: Hashable
    ) -> tuple[StageResult, FlatPool] | tuple[None, None]:
        """Return the result that a key has for a pool, and the pool in this state. Return None if it is not cached.

        `before` is the cached result that led to the pool's state, or None.
        """
        result = before.following.get(key) if before is not None else None
        after = result.pool(pool) if result is not None else None
        if after is None:
            result = self._results.get((key, tuple(pool.free_keys)))
            after = result.pool(pool) if result is not None else None
        if result is None or after is None:
            return None, None
        if before is not None:
            before.following[key] = result
        return result, after

    def add(
        self, before: StageResult | None, pool: FlatPool, key: Hashable, after: FlatPool, placed: Blocks
    ) -> StageResult | None:
        """Cache a pool's state after a part or after frees, for which `after` returned None.

        Return the result, or None if the cache is full. The pools must not change afterwards.
        """
        if len(self._results) >= MAX_RESULTS:
            return None
        result = self._results[key, tuple(pool.free_keys)] = StageResult(pool, after, placed)
        if before is not None:
            before.following[key] = result
        return result

    def free(self, number: int, pool: FlatPool, blocks: Blocks, before: list[StageResult | None]) -> FlatPool:
        """Return a pool after blocks were freed. `before` is as for `of`."""
        key = number, *blocks
        result, after = self.after(before[number], pool, key)
        if after is None:
            after = pool.copied()
            after.free([*zip(*blocks, strict=True)])
            result = self.add(before[number], pool, key, after, ((), ()))
        before[number] = result
        return after


class CachedStage:
    """The cached results of a part, for one replay."""

    __slots__ = ("_before", "_cache", "_freed", "_part", "_places", "_rows")

    def __init__(
        self, cache: StageCache, part: int, rows: _PartRows, places: Places, before: list[StageResult | None]
    ) -> None:
        self._cache = cache
        self._part = part
        self._rows = rows
        self._places = places
        self._before = before
        #: For each pool whose state was sought, the places of the rows that the part frees.
        self._freed: list[Blocks] = []

    def lookup(self, number: int, pool: FlatPool) -> FlatPool | None:
        """Return the pool after the part, and write the places of its rows.

        Return None if the result is not cached. Pools are looked up in the order of their numbers.
        """
        addresses, end_addresses = self._places
        read = self._rows.read_freed[number]
        freed = read(addresses), read(end_addresses)
        self._freed.append(freed)
        result, after = self._cache.after(self._before[number], pool, (self._part, number, *freed))
        if result is None:
            return None
        self._before[number] = result
        self._write(self._rows.remaining[number], result.placed)
        return after

    def add(self, number: int, before: FlatPool, pool: FlatPool) -> None:
        """Cache the pool after the part, for which `lookup` returned None. The pool must not change afterwards."""
        addresses, end_addresses = self._places
        read = self._rows.read_remaining[number]
        key, placed = (self._part, number, *self._freed[number]), (read(addresses), read(end_addresses))
        self._before[number] = self._cache.add(self._before[number], before, key, pool, placed)

    def restore(self) -> None:
        """Undo what the part wrote to places before a segment was refused.

        The part may have overwritten the place of a row that it has freed and allocated again.
        """
        for rows, places in zip(self._rows.freed, self._freed, strict=False):
            self._write(rows, places)

    def _write(self, rows: Sequence[int], places: Blocks) -> None:
        addresses, end_addresses = self._places
        for row, address, end in zip(rows, *places, strict=True):
            addresses[row], end_addresses[row] = address, end


def by_pool(of: Iterable[int], rows: Rows, count: int) -> list[list[int]]:
    """Return rows by their pools."""
    pools: list[list[int]] = [[] for _ in range(count)]
    for row in of:
        pools[rows.keys[row]].append(row)
    return pools


def reader(rows: Sequence[int]) -> Reader:
    """Return a function that reads the addresses of rows."""
    if len(rows) > 1:
        return itemgetter(*rows)
    return (lambda addresses: (addresses[rows[0]],)) if rows else lambda _: ()
