"""When each storage on a tape is born and freed."""

from __future__ import annotations

from collections import Counter
from copy import copy
from operator import neg
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.engine.tape import Allocation


class Lifetimes:
    """The rows of a tape and at which event each ends; one past the last where it stays.

    `known`: which rows were found between which positions. It is the same for other rows to which the same happened.
    `counted`: what was counted of these by size, for sizes that are alike in the same way. `sizes`: those of the rows,
    in an order that is the same for other rows, and `sized` the events with their numbers for the rows'; nothing where
    there are no other rows.
    """

    __slots__ = ("counted", "ends", "events", "known", "rows", "sized", "sizes")

    def __init__(self, events: list[int], rows: Sequence[Allocation], sized: Sequence[int] = ()) -> None:
        self.events = events
        self.rows = rows
        self.ends = _ended(events, len(rows))
        self.known: dict[tuple[int, ...], list[int]] = {}
        self.counted: dict[object, dict[int, tuple[int, int]]] = {}
        self.sizes: Sequence[int] = ()
        self.sized = sized

    def of(self, rows: Sequence[Allocation], sizes: Sequence[int]) -> Lifetimes:
        """The same of other rows to which the same happened, and their sizes."""
        other = copy(self)
        other.rows, other.sizes = rows, sizes
        return other

    @property
    def end(self) -> int:
        """Behind the last event."""
        return len(self.events)

    def changes(self) -> list[int]:
        """What each event adds: `n` finds a birth's bytes from the front, `~n` = -n - 1 an end's from the back."""
        sizes = self.sizes or [row[4] for row in self.rows]
        both = [*sizes, *map(neg, reversed(sizes))]
        return [*map(both.__getitem__, self.sized or self.events)]

    def born(self, start: int, end: int) -> range:
        """The rows born between two positions: rows are numbered as they are born."""
        return range(self.next_row(start), self.next_row(end))

    def next_row(self, position: int) -> int:
        """The first row that is born from a position on."""
        events, end = self.events, len(self.events)
        while position < end:
            if events[position] >= 0:
                return events[position]
            position += 1
        return len(self.ends)

    def left(self, start: int, end: int) -> list[int]:
        """The rows born between two positions and not freed between them."""
        known, ends = self.known, self.ends
        if (start, end) not in known:
            known[start, end] = [row for row in self.born(start, end) if ends[row] >= end]
        return known[start, end]

    def taken(self, first: int, start: int, end: int) -> list[int]:
        """The rows from one on that were born before two positions and are freed between them."""
        known = self.known
        if (first, start, end) not in known:
            known[first, start, end] = self.freed(range(first, self.next_row(start)), start, end)
        return known[first, start, end]

    def freed(self, rows: Iterable[int], start: int, end: int) -> list[int]:
        """Those of the rows that are freed between two positions."""
        ends = self.ends
        return [row for row in rows if start <= ends[row] < end]

    def kinds(self, rows: Iterable[int]) -> Counter[Allocation]:
        """How many rows of each kind."""
        return Counter(map(self.rows.__getitem__, rows))

    def alive(self, position: int) -> list[Allocation]:
        """The storages alive at a position, in the order of their births."""
        known, ends = self.known, self.ends
        if (position,) not in known:
            known[position,] = [row for row in range(self.next_row(position)) if ends[row] >= position]
        return [*map(self.rows.__getitem__, known[position,])]


def _ended(events: Sequence[int], rows: int) -> list[int]:
    """The event at which each of so many rows ends; one past the last where it stays."""
    ends = [len(events)] * rows
    for position, event in enumerate(events):
        if event < 0:
            ends[~event] = position
    return ends


def by_size(kinds: Mapping[Allocation, int]) -> dict[int, int]:
    """How many storages of each size there are among kinds."""
    sizes: dict[int, int] = {}
    for born, count in kinds.items():
        sizes[born[4]] = sizes.get(born[4], 0) + count
    return sizes
