"""The rest of a step, from the first repeated layer of its last backward pass on.

It adds no segment if it repeats that of the step before and that added none. It does so even if the two begin in
different states, as long as these only differ in runs and in segments that were added since.

A run is a part of a segment. Each of its blocks is free, is freed in the rest of the step, or outlives the step's
passes, and it has no such neighbor. If every later request is larger than the whole run, none is served from it, and
what is freed in it merges with nothing outside. So everything outside is placed as in the step before.

The added segments are free, and none is smaller than any segment before them. So each would be used after all other
free blocks, and only where the step before added a segment. They always serve the transients (see `transients`), if
the largest one is certain to. Then these leave no trace.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed
    from calculator.allocator.transients import MicroBatch


#: The maximum number of free blocks that differ.
_MOST = 16


class _Start(NamedTuple):
    """The state of a pool at the start: its free blocks and segments, and the places of all rows."""

    free: list[int]
    segments: list[int]
    addresses: list[int]
    behinds: list[int]


class _Events(NamedTuple):
    """The rest's events of placed tensors.

    Attributes:
        allocated: The rows that it allocates.
        freed: The rows that were allocated before it and that it frees.
        least: The size of its smallest request.
        quick: The size of a free block that is certain to serve its transients, where others do not use it.
    """

    allocated: set[int]
    freed: list[int]
    least: int
    quick: int


class RestOfStep:
    """The rest of each step in a pool, from item `start` of the last micro-batch's backward pass on."""

    __slots__ = ("_batch", "_end", "_events", "_number", "_start", "start")

    def __init__(self, batch: MicroBatch, number: int, start: int) -> None:
        self.start = start
        self._batch = batch
        self._number = number
        self._start: _Start | None = None
        #: The free blocks at the end of the step's passes. None if they added a segment after the start.
        self._end: list[int] | None = None
        self._events: _Events | None = None

    def begin(self, pool: FlatPool) -> None:
        """Store the state at the start."""
        addresses, behinds = self._batch.places
        self._start = _Start(pool.free_blocks(), pool.segments.copy(), addresses.copy(), behinds.copy())

    def end(self, pool: FlatPool) -> None:
        """Store the state at the end of the step's passes."""
        adds = self._start is None or len(pool.segments) > len(self._start.segments)
        self._end = None if adds else pool.free_blocks()

    def repeats(self, pool: FlatPool, temporaries: Sequence[int]) -> bool:
        """Return whether the rest of a step adds no segment because it repeats that of the step before.

        `temporaries` are the sizes that the optimizer requests at the end. None of them is freed before the last.
        """
        start, end, shift = self._start, self._end, pool.shift
        if start is None or end is None:
            return False
        before, now = {*start.free}, {*pool.free_keys}
        added = pool.segments[len(start.segments) :]
        gone, new = before - now, now.difference(before, added)
        if not added or not now.issuperset(added) or len(gone) + len(new) > _MOST:
            return False
        last = [max(start.segments, default=0), *added]
        events = self._events = self._events or self._listed()
        if last != sorted(last) or added[-1] >> shift < events.quick:
            return False
        least = min([events.least, *temporaries])
        if any(key >> shift >= least for key in gone | new):
            return False
        if not self._differs_in_runs(pool, start, events, [pool.blocks(gone), pool.blocks(new)], least):
            return False
        return pool.would_serve([*(key for key in end if key >> shift >= least), *added], temporaries)

    def _listed(self) -> _Events:
        """Return the events of the rest."""
        items, sizes = self._batch.passes[self._number][1][self.start :], self._batch.sizes
        allocated, freed = set[int](), []
        for item in items:
            for event in item.played(None, skips=True):
                if event >= 0:
                    allocated.add(event)
                elif ~event not in allocated:
                    freed.append(~event)
        return _Events(
            allocated=allocated,
            freed=freed,
            least=min(map(sizes.__getitem__, allocated), default=0),
            quick=max(item.quick for item in items),
        )

    def _differs_in_runs(
        self, pool: FlatPool, start: _Start, events: _Events, free: Sequence[Iterable[Placed]], least: int
    ) -> bool:
        """Return whether the states only differ in runs that are smaller than every request.

        `free` are the blocks that are only free in the earlier state, and those that are only free now.
        """
        gone, new = free
        places = [*zip(*self._batch.places, strict=True)]
        earlier = [*zip(start.addresses, start.behinds, strict=True)]
        outliving = [row for row in self._batch.left[self._number] if row not in events.allocated]
        rows = [row for row in (*events.freed, *outliving) if places[row] != earlier[row]]
        in_use = [places[row] for row in (*events.freed, *outliving)]
        ends = dict(chain(pool.blocks(pool.free_keys), in_use))
        starts = {end: address for address, end in ends.items()}
        runs = {_run(block, starts, ends) for block in (*new, *(places[row] for row in rows))}
        if any(end - address >= least for address, end in runs):
            return False
        return all(
            any(first <= address and end <= last for first, last in runs)
            for address, end in (*gone, *(earlier[row] for row in rows))
        )


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


def _run(block: Placed, starts: dict[int, int], ends: dict[int, int]) -> Placed:
    """Return the run around a block. `starts` and `ends` have the blocks that it can consist of."""
    first, last = block
    while first in starts:
        first = starts[first]
    while last in ends:
        last = ends[last]
    return first, last
