"""The rest of a step, from the first repeated layer of its last backward pass on.

It adds no segment if it repeats that of an earlier step and that added none. It does so even if the two begin in
different states, as long as these only differ in runs and in segments that were added since.

A run is a part of a segment. Each of its blocks is free, is freed in the rest of the step, or outlives the step's
passes, and it has no such neighbor. If every later request is larger than the whole run, none is served from it, and
what is freed in it merges with nothing outside. So everything outside is placed as in the earlier step.

The added segments are free, and none is smaller than any segment before them. So each would be used after all other
free blocks, and only where the earlier step added it. If the largest one is certain to serve the transients (see
`transients`), these leave no trace.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed, Places
    from calculator.allocator.transients import MicroBatch


#: The maximum number of free blocks that differ.
_MOST = 16


class _Start(NamedTuple):
    """The state of a pool at the start: its free blocks and segments, and the places of all rows."""

    free: list[int]
    segments: list[int]
    addresses: list[int]
    end_addresses: list[int]


class _Events(NamedTuple):
    """The rest's events of placed tensors.

    Attributes:
        allocated: The rows that it allocates.
        freed: The rows that were allocated before it and that it frees.
        least: The size of its smallest request.
        sufficient_size: The size of a free block that is certain to serve its transients, where others do not use it.
    """

    allocated: set[int]
    freed: list[int]
    least: int
    sufficient_size: int


class RestOfStep:
    """The rest of each step in a pool, from item `start` of the last micro-batch's backward pass on.

    Steps are compared with one of which `begin` and `end` stored the states.
    """

    __slots__ = ("_adds_none", "_batch", "_events", "_number", "_start", "start")

    def __init__(self, batch: MicroBatch, number: int, start: int) -> None:
        self.start = start
        self._batch = batch
        self._number = number
        self._start: _Start | None = None
        #: Whether the step's passes added no segment after the start.
        self._adds_none = False
        self._events: _Events | None = None

    def begin(self, pool: FlatPool) -> None:
        """Store the state at the start."""
        addresses, end_addresses = self._batch.places
        self._start = _Start(pool.free_blocks(), pool.segments.copy(), addresses.copy(), end_addresses.copy())

    def end(self, pool: FlatPool) -> None:
        """Store whether the step's passes added no segment after the start."""
        self._adds_none = self._start is not None and len(pool.segments) == len(self._start.segments)

    def repeats(self, pool: FlatPool, temporaries: Sequence[int]) -> bool:
        """Return whether the rest of a step adds no segment because it repeats that of the earlier step.

        `temporaries` are the sizes that the optimizer requests at the end. None of them is freed before the last. If
        the earlier step added segments for them, it left these free.
        """
        start, shift = self._start, pool.shift
        if start is None or not self._adds_none:
            return False
        before, now = {*start.free}, {*pool.free_keys}
        added = pool.segments[len(start.segments) :]
        gone, new = before - now, now.difference(before, added)
        last, largest = [max(start.segments, default=0), *added], max((*gone, *new), default=0) >> shift
        if not added or not now.issuperset(added) or last != sorted(last):
            return False
        if len(gone) + len(new) > _MOST or largest >= min(temporaries, default=largest + 1):
            return False
        events = self._events = self._events or self._listed()
        least = min([events.least, *temporaries])
        if largest >= least or added[-1] >> shift < events.sufficient_size:
            return False
        return self._differs_in_runs(pool, start, events, [pool.blocks(gone), pool.blocks(new)], least)

    def _listed(self) -> _Events:
        """Return the events of the rest."""
        items, sizes = self._batch.passes[self._number][1][self.start :], self._batch.sizes
        allocated, freed = set[int](), []
        for event in chain.from_iterable([item.played(skips=True) for item in items]):
            if event >= 0:
                allocated.add(event)
            elif ~event not in allocated:
                freed.append(~event)
        return _Events(
            allocated=allocated,
            freed=freed,
            least=min(map(sizes.__getitem__, allocated), default=0),
            sufficient_size=max(item.sufficient_size for item in items),
        )

    def _differs_in_runs(
        self, pool: FlatPool, start: _Start, events: _Events, free: Sequence[Iterable[Placed]], least: int
    ) -> bool:
        """Return whether the states only differ in runs that are smaller than every request.

        `free` are the blocks that are only free in the earlier state, and those that are only free now.
        """
        gone, new = free
        left = [row for row in self._batch.left[self._number] if row not in events.allocated]
        rows = [*events.freed, *left]
        before, now = placed(rows, (start.addresses, start.end_addresses)), placed(rows, self._batch.places)
        moved = [pair for pair in zip(before, now, strict=True) if pair[0] != pair[1]]
        ends = dict(now)
        starts = dict(zip(ends.values(), ends, strict=True))
        runs = {_run(block, pool.edges, starts, ends) for block in (*new, *(place for _, place in moved))}
        if any(end - address >= least for address, end in runs):
            return False
        return all(
            any(first <= address and end <= last for first, last in runs)
            for address, end in (*gone, *(place for place, _ in moved))
        )


def placed(rows: Sequence[int], places: Places) -> list[Placed]:
    """Return the places of rows."""
    addresses, end_addresses = places
    return [*zip(_values_of(rows, addresses), _values_of(rows, end_addresses), strict=True)]


def _values_of(rows: Sequence[int], values: Sequence[int]) -> list[int]:
    return [*map(values.__getitem__, rows)]


def rest_of_step(batch: MicroBatch, number: int) -> RestOfStep | None:
    """Return the rest of a step in a pool. `batch` is the step's last micro-batch.

    It begins with the backward pass's first repeated item at which no transient is alive. Return None if there is none.
    """
    items, at = batch.passes[number][1], 0
    for window, count in zip(batch.windows[1], batch.counts[number][1], strict=True):
        if len(window.shifts) > 1:
            of_first = range(max(1, at), at + count)
            starts = (n for n in of_first if items[n - 1].chunk.ends_stretch and not items[n].chunk.carried)
            return next((RestOfStep(batch, number, n) for n in starts), None)
        at += count * len(window.shifts)
    return None


def _run(block: Placed, edges: dict[int, int], starts: dict[int, int], ends: dict[int, int]) -> Placed:
    """Return the run around a block.

    `edges` are those of free blocks (see `FlatPool`). `starts` and `ends` are those of the other blocks of runs.
    """
    first, last = block
    while (before := starts.get(first, edges.get(first, first))) < first:
        first = before
    while (behind := ends.get(last, edges.get(last, last))) > last:
        last = behind
    return first, last
