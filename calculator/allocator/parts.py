"""The parts of a step.

A part is played pool by pool if the device refuses no segment. Otherwise it is played event by event.
"""

from __future__ import annotations

from copy import copy
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple, Protocol

from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.gap_rests import play_gap
from calculator.allocator.loading import one_by_one
from calculator.allocator.needs import Need
from calculator.allocator.segments import BLOCK
from calculator.allocator.transients import PARTS, play
from calculator.common.deferred import Deferred
from calculator.training_step.periods import Window, shifted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from calculator.allocator.flat_pool import Places
    from calculator.allocator.transients import Item, MicroBatch, Pool
    from calculator.resident.per_parameter import ResidentTensors

#: A repetition of a window of a pass: the window, its shift, its items for each pool, and the events that it does not
#: undo itself.
_Repetition = tuple[Window, int, list["list[Item]"], Deferred[list[int]]]
#: The rows that a part allocates but does not free, and the rows that it frees but does not allocate.
Net = tuple[set[int], set[int]]
#: The least number of events of a piece of a part that is split.
_LEAST = 64
#: The most events of a short stretch of transients.
_SHORT = 4
_NO_WINDOW = Window((), 0, (0,))
_NOTHING: Deferred[list[int]] = Deferred(list)


class Rows:
    """Rows of tensors: their sizes, pools and names."""

    __slots__ = ("_names", "keys", "sizes", "streams")

    def __init__(self) -> None:
        self.sizes: list[int] = []
        #: The CUDA stream of each row, by number. Empty if all rows are on the first stream.
        self.streams: Sequence[int] = ()
        self.keys: list[int] = []
        self._names: list[tuple[int, Callable[[int], str]]] = []

    def add(self, sizes: Sequence[int], name: Callable[[int], str]) -> range:
        """Add rows. `name` returns the name of the n-th of them, from 0."""
        start = len(self.sizes)
        self.sizes += sizes
        self._names.append((start, name))
        return range(start, len(self.sizes))

    def add_resident(self, resident: Iterable[ResidentTensors]) -> range:
        """Add a row for each tensor."""
        tensors = one_by_one(resident)
        return self.add([tensor.bytes // tensor.count // BLOCK for tensor in tensors], lambda n: tensors[n].name)

    def name(self, row: int) -> str:
        """Return the name of a row's tensor."""
        start, name = next(part for part in reversed(self._names) if part[0] <= row)
        return name(row - start)


class Part(Protocol):
    """A part of a step. A row may be allocated again after it was freed."""

    def events(self) -> Sequence[int]:
        """Return all events in order."""

    def play(self, number: int, pool: Pool, sizes: Sequence[int], places: Places) -> None:
        """Play the events of the rows of a pool. Events that have no lasting effect may be left out."""

    def split(self) -> Sequence[Part]:
        """Return the smaller parts that this part consists of, or the part itself."""

    def net(self) -> Net:
        """Return the rows that the part only allocates, and the rows that it only frees."""


class ListedPart:
    """A part whose events are all played."""

    __slots__ = ("_apart", "_events", "_rows", "_split")

    def __init__(self, events: Sequence[int], rows: Rows) -> None:
        self._events = events
        self._rows = rows
        #: The events of each pool that has any.
        self._apart: dict[int, list[int]] | None = None
        self._split: list[ListedPart] = []

    def events(self) -> Sequence[int]:
        """Return all events."""
        return self._events

    def play(self, number: int, pool: Pool, sizes: Sequence[int], places: Places) -> None:
        """Play the events of a pool."""
        if self._apart is None:
            self._apart, keys = {}, self._rows.keys
            for event in self._events:
                self._apart.setdefault(keys[event if event >= 0 else ~event], []).append(event)
        pool.play(self._apart.get(number, ()), sizes, places)

    def split(self) -> Sequence[Part]:
        """Return pieces of the events, or the part itself if it is short."""
        events, size = self._events, max(-(-len(self._events) // PARTS), _LEAST)
        if not self._split and len(events) > size:
            starts = range(0, len(events), size)
            self._split = [ListedPart(events[at : at + size], self._rows) for at in starts]
        return self._split or (self,)

    def net(self) -> Net:
        """Return the rows that the part only allocates, and the rows that it only frees."""
        return _net(self._events)


class TemporaryPart(ListedPart):
    """Rows that are all allocated, and then all freed. They are not played if they are certain to fit."""

    __slots__ = ("_needs", "_requests")

    def __init__(self, allocated: Sequence[int], rows: Rows) -> None:
        super().__init__([*allocated, *(~row for row in allocated)], rows)
        #: The sizes of small rows, and of large rows. All are on the first stream.
        self._requests = [[rows.sizes[row] for row in allocated if rows.keys[row] == large] for large in (0, 1)]
        self._needs = [*map(Need.from_sizes, self._requests)]

    def play(self, number: int, pool: Pool, sizes: Sequence[int], places: Places) -> None:
        """Play the events of a pool if they may not fit."""
        if number >= len(self._needs):
            return
        if not pool.serves(self._needs[number]) and not pool.serves_all(self._requests[number]):
            super().play(number, pool, sizes, places)


class WindowedPart:
    """Repetitions of windows of a micro-batch, without transients that have no lasting effect (see `transients`).

    All tensors that are alive at its end are placed, so that the next part can be played event by event.
    """

    __slots__ = ("_following", "_items", "_pieces", "_repeated", "_sizes", "_split", "_until")

    def __init__(self, repeated: list[_Repetition], sizes: Sequence[int], following: _Repetition | None) -> None:
        self._repeated = repeated
        self._sizes = sizes
        self._following = following
        self._split: list[WindowedPart] = []
        #: For each pool, its items, and the index from which on all tensors are placed.
        pools = range(len(repeated[0][2]))
        self._items = [[item for _, _, of_pools, _ in repeated for item in of_pools[pool]] for pool in pools]
        ends = [_carries(following[2][pool]) if following else False for pool in pools]
        self._until = [
            _last_end(items) if carries else len(items) for items, carries in zip(self._items, ends, strict=True)
        ]
        #: For each pool that was played, its items in pieces.
        self._pieces: dict[int, list[_Piece]] = {}

    def events(self) -> list[int]:
        """Return all events of rows that have a block."""
        sizes = self._sizes
        return [
            event
            for window, by, _, _ in self._repeated
            for event in shifted(window.events, window.lowest, by)
            if sizes[event if event >= 0 else ~event]
        ]

    def play(self, number: int, pool: Pool, sizes: Sequence[int], places: Places) -> None:
        """Play the events of a pool, except those of transients that are certain to fit."""
        if number not in self._pieces:
            self._pieces[number] = _pieces(self._items[number], self._until[number])
        gaps = partial(play_gap, pool, sizes, places) if isinstance(pool, FlatPool) else None
        for events, items, until in self._pieces[number]:
            if events:
                pool.play(events, sizes, places)
            elif items:
                play(pool, items, sizes, places, until=until, play_gap=gaps)

    def split(self) -> Sequence[Part]:
        """Return a part for each repetition."""
        if not self._split:
            following = [*self._repeated[1:], self._following]
            self._split = [
                WindowedPart([repetition], self._sizes, behind)
                for repetition, behind in zip(self._repeated, following, strict=True)
            ]
        return self._split

    def net(self) -> Net:
        """Return the rows that the part only allocates, and the rows that it only frees."""
        allocated, freed, sizes = set[int](), set[int](), self._sizes
        for window, by, _, events in self._repeated:
            for event in shifted(events(), window.lowest, by):
                row = max(event, ~event)
                if event >= 0 and sizes[row]:
                    allocated.add(row)
                elif row in allocated:
                    allocated.remove(row)
                elif sizes[row]:
                    freed.add(row)
        return allocated, freed

    def without(self, rows: range) -> WindowedPart:
        """Return the part without the allocations of workspaces, which are windows of their own."""
        if not any(_allocates(window, rows) for window, *_ in self._repeated):
            return self
        repeated = [
            (
                _NO_WINDOW if _allocates(window, rows) else window,
                by,
                [[_without(item, rows) for item in items] for items in both],
                _NOTHING if _allocates(window, rows) else events,
            )
            for window, by, both, events in self._repeated
        ]
        return WindowedPart(repeated, self._sizes, self._following)


class _Piece(NamedTuple):
    """Some items of a part.

    Attributes:
        events: All of their events, if these are played. Otherwise empty.
        items: The items, if their transients may be left out.
        until: The index of the item from which on all transients are placed.
    """

    events: Sequence[int]
    items: Sequence[Item] = ()
    until: int = 0


def _pieces(items: Sequence[Item], until: int) -> list[_Piece]:
    """Return items in pieces. From item `until` on, all transients are placed.

    A short stretch in one item takes less time than the proof that its transients fit, so all of its events are played.
    """
    found, at, ended = list[_Piece](), 0, True
    are_short = list[bool]()
    for item in items:
        chunk = item.chunk
        is_whole = ended and chunk.ends_stretch and not chunk.carried
        are_short.append(is_whole and not chunk.recurs and len(chunk.gap) <= _SHORT)
        ended = chunk.ends_stretch
    for is_short, group in groupby(are_short):
        of_group = items[at : at + len([*group])]
        if is_short:
            found.append(_Piece([event for item in of_group for event in item.played(skips=False)]))
        else:
            found.append(_Piece((), of_group, until - at))
        at += len(of_group)
    return found


def _net(events: Sequence[int]) -> Net:
    allocated, freed = set[int](), set[int]()
    for event in events:
        if event >= 0:
            allocated.add(event)
        elif ~event in allocated:
            allocated.remove(~event)
        else:
            freed.add(~event)
    return allocated, freed


def _net_events(window: Window) -> list[int]:
    """Return the frees and allocations of rows that a window does not both allocate and free."""
    allocated, freed = _net(window.events)
    return [*(~row for row in freed), *allocated]


def _carries(items: Sequence[Item]) -> bool:
    return bool(items and items[0].chunk.carried)


def _last_end(items: Sequence[Item]) -> int:
    """Return the index after the last item that ends a stretch of transients."""
    return next((n + 1 for n in reversed(range(len(items))) if items[n].chunk.ends_stretch), 0)


def _allocates(window: Window, rows: range) -> bool:
    return bool(window.events) and window.events[0] in rows


def _without(item: Item, rows: range) -> Item:
    if not item.chunk.placed or item.chunk.placed[0] not in rows:
        return item
    other = copy(item)
    other.place(())
    return other


def parts_of(batch: MicroBatch, number: int) -> list[WindowedPart]:
    """Return the parts of a micro-batch's pass."""
    repeated = _repetitions(batch, number)
    most = sum(len(window.events) for window, *_ in repeated) / PARTS
    groups: list[list[_Repetition]] = []
    size = most
    for repetition in repeated:
        if size >= most:
            groups.append([])
            size = 0
        groups[-1].append(repetition)
        size += len(repetition[0].events)
    following = [group[0] for group in groups[1:]]
    return [WindowedPart(group, batch.sizes, behind) for group, behind in zip(groups, [*following, None], strict=True)]


def _repetitions(batch: MicroBatch, number: int) -> list[_Repetition]:
    found: list[_Repetition] = []
    pools = range(len(batch.passes))
    starts = [0 for _ in pools]
    for place, window in enumerate(batch.windows[number]):
        counts = [batch.counts[pool][number][place] for pool in pools]
        events = Deferred(partial(_net_events, window))
        for by in window.shifts:
            ends = [start + count for start, count in zip(starts, counts, strict=True)]
            items = [batch.passes[pool][number][starts[pool] : ends[pool]] for pool in pools]
            found.append((window, by, items, events))
            starts = ends
    return found
