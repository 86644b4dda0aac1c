"""The chunks of a micro-batch: its events, cut at the allocations of placed tensors (see `transients`).

Chunks do not depend on sizes, as long as no tensor changes its pool.
"""

from __future__ import annotations

from itertools import chain
from operator import invert
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.needs import Allocations
from calculator.allocator.segments import BLOCK, SMALL_REQUEST
from calculator.common.budget import check_budget
from calculator.sharding.streams import STREAMS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.training_step.periods import Window
    from calculator.training_step.unrolled import Unrolled

#: The largest size in a small pool, in units of 512 bytes.
SMALL = SMALL_REQUEST // BLOCK
_NEVER = 1 << 60

#: The chunks of a pass. Each comes with the lowest row that is shifted, and the shift of the repetition.
Repeated = list[tuple["Chunk", int, int]]


class Moved(NamedTuple):
    """Events, and the indices of allocations and of frees whose rows differ from repetition to repetition."""

    events: list[int]
    allocated: list[int]
    freed: list[int]

    @classmethod
    def of(cls, events: list[int], lowest: int) -> Moved:
        """Return events of which rows from `lowest` on differ."""
        allocated = [at for at, event in enumerate(events) if event >= lowest]
        return cls(events, allocated, [at for at, event in enumerate(events) if ~event >= lowest])


class Chunk:
    """The events of a part of a window: a gap without allocations of placed tensors, then events of placed tensors.

    Attributes:
        gap: The events of the gap: those of transients, and frees of placed tensors.
        transients: The events of transients in the gap.
        allocates: Whether one of these is an allocation.
        counts: The number of transients that are alive before each of these allocations.
        frees: The frees of placed tensors in the gap.
        placed: The events after the gap, which all belong to placed tensors.
        ends_stretch: Whether one of them is an allocation.
        carried: The transients that are alive at the start of the chunk.
        recurs: Whether it is repeated with the same rows.
        moved: Events of it, with those whose rows differ from repetition to repetition.
        number: The number of the chunk among those of its pool.
    """

    __slots__ = (
        "_freed",
        "allocates",
        "carried",
        "counts",
        "ends_stretch",
        "frees",
        "gap",
        "moved",
        "number",
        "placed",
        "recurs",
        "transients",
    )

    def __init__(self, carried: list[int], *, recurs: bool) -> None:
        self.gap: list[int] = []
        self.transients: list[int] = []
        self.allocates = False
        self.counts: list[int] = []
        self.frees: list[int] = []
        self.placed: list[int] = []
        self.ends_stretch = False
        self.carried = carried
        self.recurs = recurs
        self.moved: dict[tuple[bool, int], Moved] = {}
        self.number = 0
        self._freed: list[int] | None = None

    @property
    def freed(self) -> list[int]:
        """The rows that are alive at the start of the chunk and that it may free.

        The chunk must be complete when this is first read.
        """
        if self._freed is None:
            events = [*reversed(self.placed)]
            # The first event of a row comes last here, and replaces the others.
            first = dict(zip(map(max, events, map(invert, events)), events, strict=True))
            placed = [row for row, event in first.items() if event < 0]
            self._freed = [*self.carried, *map(invert, self.frees), *placed]
        return self._freed


def pools_of(sizes: Sequence[int], streams: Sequence[int]) -> list[int]:
    """Return the number of each row's pool.

    Each stream has a small and a large pool. The first stream's pools come first.
    """
    if not streams:
        return [size > SMALL for size in sizes]
    rest = [0] * (len(sizes) - len(streams))
    return [2 * stream + (size > SMALL) for size, stream in zip(sizes, [*streams, *rest], strict=True)]


def _pools_of_rows(unrolled: Unrolled, sizes: Sequence[int], workspace: int) -> list[int]:
    """Return the number of the pool of each row of a micro-batch. All periods have the rows of the first one."""
    if unrolled.streams or len(unrolled.rows) == unrolled.base:
        return pools_of(sizes, unrolled.streams)
    once = pools_of(sizes[: unrolled.base + unrolled.stride], ())
    return [*once, *once[unrolled.base :] * (2 + unrolled.copies), *pools_of(sizes[workspace:], ())]


def pool_count(streams: Sequence[int]) -> int:
    """Return the number of pools for rows on these streams."""
    return 2 * (max(len(STREAMS), max(streams) + 1) if streams else 1)


class Cut(NamedTuple):
    """The chunks of a micro-batch and the rows that outlive it, by pool.

    Attributes:
        gradients, left: The rows that outlive the micro-batch: gradients, and others.
        passes: The repeated chunks of each pass.
        allocations: The allocations of transients in each chunk.
        counts: The number of chunks in each window of each pass.
    """

    gradients: list[list[int]]
    left: list[list[int]]
    passes: list[list[Repeated]]
    allocations: list[Allocations]
    counts: list[list[list[int]]]


def cut_of(unrolled: Unrolled, passes: Sequence[Sequence[Window]], sizes: Sequence[int], workspace: int) -> Cut:
    """Cut the passes of a micro-batch into chunks.

    `sizes` has the size of each row. Rows from `workspace` on are workspaces.
    """
    return ShortBatch(unrolled, passes, sizes, workspace).cut()


class ShortBatch:
    """A micro-batch as if no period were repeated, which determines the placed rows of the whole micro-batch.

    Its rows have the numbers that they have in the windows of layers. Events of other windows are renumbered
    accordingly. There, events of the copies of the repeated period are left out, and their rows are placed.
    """

    __slots__ = (
        "_alive",
        "_base",
        "_by_event",
        "_copies",
        "_kept",
        "_later",
        "_middle",
        "_outside",
        "_passes",
        "_placed",
        "_pool_count",
        "_pools",
        "_pools_by_event",
        "_rows",
        "_sizes",
        "_stride",
        "_workspace",
    )

    def __init__(
        self, unrolled: Unrolled, passes: Sequence[Sequence[Window]], sizes: Sequence[int], workspace: int
    ) -> None:
        self._base, self._stride, self._copies = unrolled.base, unrolled.stride, unrolled.copies
        self._rows, self._sizes, self._workspace = unrolled.rows, sizes, workspace
        self._pools = _pools_of_rows(unrolled, sizes, workspace)
        self._pools_by_event = [*self._pools, *reversed(self._pools)]
        self._pool_count = pool_count(unrolled.streams)
        #: The size of an event's row. The two events of a row, `n` and `~n`, are indices of equal elements.
        self._by_event = [*sizes, *reversed(sizes)]
        #: Rows that are placed. One row represents its copies in all periods.
        self._placed: set[int] = set()
        #: The events, outside the periods, of rows of the repeated period.
        outside = (window.events for windows in passes for window in windows if not window.lowest)
        self._outside = {*chain.from_iterable(outside)}
        self._passes = [[(window, self._numbered_back(window)) for window in windows] for windows in passes]
        forward, backward = ([*chain.from_iterable([short for _, short in windows])] for windows in self._passes)
        self._middle = len(forward)
        #: The rows that are never freed, in the order of their allocations.
        self._kept: list[int] = []
        if unrolled.takes:
            self._place_taken([*forward, *backward])
        self._place([*forward, *backward])

    def cut(self) -> Cut:
        """Cut the passes into chunks."""
        #: For each pool, the live transients by their numbers in the short micro-batch.
        pools = range(self._pool_count)
        self._alive: list[dict[int, None]] = [{} for _ in pools]
        placed = self._all_placed()
        passes: list[list[Repeated]] = [[] for _ in pools]
        once: list[list[Chunk]] = [[] for _ in pools]
        counts: list[list[list[int]]] = [[] for _ in pools]
        for windows, later in zip(self._passes, (1, 2), strict=True):
            # After the periods, the repeated one is the last in the forward pass, and the first in the backward pass.
            self._later = self._base + later * self._stride
            cut = [(window, self._cut(window, short, placed)) for window, short in windows]
            for n, repeated in enumerate(passes):
                counts[n].append([len(chunks[n]) for _, chunks in cut])
                once[n].extend(chunk for _, chunks in cut for chunk in chunks[n])
                repeated.append(
                    [
                        (chunk, window.lowest, by)
                        for window, chunks in cut
                        for by in window.shifts
                        for chunk in chunks[n]
                    ]
                )
        for chunks in once:
            for number, chunk in enumerate(chunks):
                chunk.number = number
        allocations = [*map(Allocations.of, once)]
        return Cut(self._outliving(gradients=True), self._outliving(gradients=False), passes, allocations, counts)

    def _outliving(self, *, gradients: bool) -> list[list[int]]:
        """Return the rows that are never freed, by pool: those of gradients, or the others."""
        found: list[list[int]] = [[] for _ in range(self._pool_count)]
        following = self._base + 2 * self._stride
        for row in self._kept:
            if row < self._workspace and (self._rows[row][3] == "gradients") == gradients:
                repeated = following - self._stride <= row < following
                start, repeats = (row, self._copies + 1) if repeated else (self._in_full(row, following), 1)
                found[self._pools[start]].extend(range(start, start + repeats * self._stride, self._stride))
        return found

    def _all_placed(self) -> set[int]:
        """Return the events of placed rows of the short micro-batch."""
        repeated = [kind for kind in self._placed if self._base <= kind < self._workspace]
        rows = self._placed.union(*([kind + n * self._stride for kind in repeated] for n in range(1, 3)))
        return rows.union([~row for row in rows])

    def _numbered_back(self, window: Window) -> Sequence[int | None]:
        """Return the events of a window with rows of the short micro-batch, and None for other events."""
        sizes, middle, events = self._by_event, self._base + self._stride, window.events
        if window.lowest or max(events, default=0) < middle > ~min(events, default=0):
            has_all = all(map(sizes.__getitem__, events))
            return events if has_all else [event if sizes[event] else None for event in events]
        return [self._numbered(event) if sizes[event] else None for event in events]

    def _numbered(self, event: int) -> int | None:
        """Return an event outside the periods with its row in the short micro-batch, where one period is the last too.

        Return None if there is such an event for each period. Then only that of the first one is kept.
        """
        row, by, following = max(event, ~event), self._copies * self._stride, self._base + 2 * self._stride
        if row < following or row >= self._workspace:
            return event
        short = event - by if event >= 0 else event + by
        if row >= following + by or (row >= following - self._stride + by and short not in self._outside):
            return short
        self._placed.add(self._kind(row))
        return None

    def _kind(self, row: int) -> int:
        """Return a number that a row and its copies in all periods share."""
        base = self._base
        return row if row < base or row >= self._workspace else base + (row - base) % self._stride

    def _in_full(self, row: int, start: int) -> int:
        """Return the number of a row in the whole micro-batch, in which rows from `start` on have a higher number."""
        return row + self._copies * self._stride if start <= row < self._workspace else row

    def _place_taken(self, events: Sequence[int | None]) -> None:
        """Mark every row as placed that is freed but not allocated."""
        allocated = {event for event in events if event is not None and event >= 0}
        freed = {~event for event in events if event is not None and event < 0}
        self._placed.update(map(self._kind, freed - allocated))

    def _place(self, events: Sequence[int | None]) -> None:
        """Mark as placed every row that outlives its pass, or that is alive while a placed row is allocated.

        Only the allocations of the row's own pool count.
        """
        while self._places_passed(events):
            check_budget()

    def _places_passed(self, events: Sequence[int | None]) -> bool:
        """Mark rows as placed, from the last event to the first.

        Return whether a row was marked after a row of the same kind had been passed over.
        """
        placed, pools, middle = self._placed, self._pools, self._middle
        base, stride, workspace = self._base, self._stride, self._workspace
        self._kept = []
        deaths = dict[int, int]()
        #: By pool, where the next placed row is allocated; and the kinds of rows that were not marked.
        following, passed, places_passed = [_NEVER] * self._pool_count, set[int](), False
        for at, event in zip(reversed(range(len(events))), reversed(events), strict=True):
            if event is None:
                continue
            if event < 0:
                deaths[~event] = at
                continue
            death, pool = deaths.get(event, _NEVER), pools[event]
            kind = event if event < base or event >= workspace else base + (event - base) % stride
            if death == _NEVER:
                self._kept.append(event)
            elif following[pool] > death and not at < middle <= death and kind not in placed:
                passed.add(kind)
                continue
            places_passed = places_passed or kind in passed
            placed.add(kind)
            following[pool] = at
        self._kept.reverse()
        return places_passed

    def _cut(self, window: Window, short: Sequence[int | None], placed: set[int]) -> list[list[Chunk]]:
        """Cut the events of a window into chunks of each pool. `placed` are events."""
        if short is window.events and placed.isdisjoint(short):
            return self._without_placed(window)
        sizes, pools, lives = self._by_event, self._pools_by_event, self._alive
        of_pools = [[self._chunk(window, pool)] for pool in range(self._pool_count)]
        last = [chunk for (chunk,) in of_pools]
        for event, numbered in zip(window.events, short, strict=True):
            if numbered is None and not sizes[event]:
                continue
            pool = pools[event]
            chunk = last[pool]
            if numbered is None or numbered in placed:
                if event >= 0:
                    chunk.ends_stretch = True
                if chunk.ends_stretch:
                    chunk.placed.append(event)
                else:
                    chunk.gap.append(event)
                    chunk.frees.append(event)
                continue
            if chunk.ends_stretch:
                chunk = last[pool] = self._chunk(window, pool)
                of_pools[pool].append(chunk)
            chunk.gap.append(event)
            chunk.transients.append(event)
            if event >= 0:
                chunk.allocates = True
                chunk.counts.append(len(lives[pool]))
                lives[pool][numbered] = None
            else:
                del lives[pool][~numbered]
        return of_pools

    def _without_placed(self, window: Window) -> list[list[Chunk]]:
        """Return the chunk of each pool, for a window whose rows have the same numbers here, and are all transients."""
        pools, lives = self._pools_by_event, self._alive
        chunks = [self._chunk(window, pool) for pool in range(self._pool_count)]
        for event in window.events:
            pool = pools[event]
            chunk = chunks[pool]
            chunk.gap.append(event)
            if event >= 0:
                chunk.counts.append(len(lives[pool]))
                lives[pool][event] = None
            else:
                del lives[pool][~event]
        for chunk in chunks:
            chunk.transients, chunk.allocates = chunk.gap, bool(chunk.counts)
        return [[chunk] for chunk in chunks]

    def _chunk(self, window: Window, pool: int) -> Chunk:
        alive = self._alive[pool]
        recurs = len(window.shifts) > 1 and not any(window.shifts)
        return Chunk([*alive] if window.lowest else [self._in_full(row, self._later) for row in alive], recurs=recurs)
