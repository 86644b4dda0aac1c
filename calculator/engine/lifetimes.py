"""The lifetime of each storage on a tape: the event that allocates it and the event that frees it."""

from __future__ import annotations

from collections import Counter
from copy import copy
from operator import neg
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.engine.tape import Allocation


class Lifetimes:
    """The rows of a tape, and the events that allocate and free them.

    A tape's event is `n` where row `n` is allocated and `~n` where it is freed. Positions are indices of events.
    """

    __slots__ = ("count_cache", "ends", "events", "row_cache", "rows", "size_events", "sizes")

    def __init__(self, events: list[int], rows: Sequence[Allocation], size_events: Sequence[int] = ()) -> None:
        self.events = events
        self.rows = rows
        #: The position at which each row is freed; the number of events for a row that is never freed.
        self.ends = _ends(events, len(rows))
        #: Row indices by (start, end). Runs with the same events share it.
        self.row_cache: dict[tuple[int, ...], list[int]] = {}
        #: Peak counts by which sizes are equal. Runs with the same events share it.
        self.count_cache: dict[object, dict[int, tuple[int, int]]] = {}
        #: The distinct sizes of a symbolic trace's rows, in an order that other sizes keep. Empty for a plain run.
        self.sizes: Sequence[int] = ()
        #: The events, with the index of the row's size for the row. Empty for a plain run.
        self.size_events = size_events

    def with_rows(self, rows: Sequence[Allocation], sizes: Sequence[int]) -> Lifetimes:
        """The lifetimes of other rows with the same events, and the sizes of these rows."""
        other = copy(self)
        other.rows, other.sizes = rows, sizes
        return other

    @property
    def end(self) -> int:
        """The position after the last event."""
        return len(self.events)

    def changes(self) -> list[int]:
        """The bytes that each event adds; a free adds fewer than 0.

        `n` indexes the allocated bytes from the front of the list, `~n` = -n - 1 the freed bytes from its back.
        """
        sizes = self.sizes or [row[4] for row in self.rows]
        both = [*sizes, *map(neg, reversed(sizes))]
        return [*map(both.__getitem__, self.size_events or self.events)]

    def allocated(self, start: int, end: int) -> range:
        """The rows allocated between two positions: rows are numbered in the order of allocation."""
        return range(self.next_row(start), self.next_row(end))

    def next_row(self, position: int) -> int:
        """The first row that is allocated at a position or later."""
        events, end = self.events, len(self.events)
        while position < end:
            if events[position] >= 0:
                return events[position]
            position += 1
        return len(self.ends)

    def surviving(self, start: int, end: int) -> list[int]:
        """The rows that are allocated between two positions and still alive at the second."""
        cache, ends = self.row_cache, self.ends
        if (start, end) not in cache:
            cache[start, end] = [row for row in self.allocated(start, end) if ends[row] >= end]
        return cache[start, end]

    def freed_earlier_rows(self, first: int, start: int, end: int) -> list[int]:
        """The rows from `first` on that are allocated before `start` and freed between `start` and `end`."""
        cache = self.row_cache
        if (first, start, end) not in cache:
            cache[first, start, end] = self.freed(range(first, self.next_row(start)), start, end)
        return cache[first, start, end]

    def freed(self, rows: Iterable[int], start: int, end: int) -> list[int]:
        """Those of the rows that are freed between two positions."""
        ends = self.ends
        return [row for row in rows if start <= ends[row] < end]

    def kinds(self, rows: Iterable[int]) -> Counter[Allocation]:
        """The number of rows of each kind."""
        return Counter(map(self.rows.__getitem__, rows))

    def alive(self, position: int) -> list[Allocation]:
        """The rows that are alive at a position, in the order of allocation."""
        cache, ends = self.row_cache, self.ends
        if (position,) not in cache:
            cache[position,] = [row for row in range(self.next_row(position)) if ends[row] >= position]
        return [*map(self.rows.__getitem__, cache[position,])]


def _ends(events: Sequence[int], rows: int) -> list[int]:
    """The position at which each row is freed; the number of events for a row that is never freed."""
    ends = [len(events)] * rows
    for position, event in enumerate(events):
        if event < 0:
            ends[~event] = position
    return ends


def by_size(kinds: Mapping[Allocation, int]) -> dict[int, int]:
    """The number of storages of each size."""
    sizes: dict[int, int] = {}
    for allocation, count in kinds.items():
        sizes[allocation[4]] = sizes.get(allocation[4], 0) + count
    return sizes
