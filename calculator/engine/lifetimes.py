"""The lifetime of each storage on a tape: the event that allocates it and the event that frees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Lifetimes:
    """The events that allocate and free the rows of a tape.

    Event `n` allocates row `n`, and event `~n` frees it. Positions are indices of events.
    """

    __slots__ = ("alive_cache", "end", "ends", "events")

    def __init__(self, events: list[int], rows: int) -> None:
        self.events = events
        #: The position after the last event.
        self.end = len(events)
        #: The position at which each row is freed. It is the number of events if the row is never freed.
        self.ends = _free_positions(events, rows)
        #: The rows that are alive, cached by position.
        self.alive_cache: dict[int, list[int]] = {}

    def allocated(self, start: int, end: int) -> range:
        """Return the rows that are allocated between two positions. Rows are numbered in the order of allocation."""
        return range(self.next_row(start), self.next_row(end))

    def next_row(self, position: int) -> int:
        """Return the first row that is allocated at a position or later."""
        events, end = self.events, len(self.events)
        while position < end:
            if events[position] >= 0:
                return events[position]
            position += 1
        return len(self.ends)

    def surviving(self, start: int, end: int) -> list[int]:
        """Return the rows that are allocated between two positions and still alive at the second."""
        rows = self.allocated(start, end)
        ends = self.ends
        return [row for row in rows if ends[row] >= end]

    def freed_earlier_rows(self, first: int, start: int, end: int) -> list[int]:
        """Return the rows from `first` on that are allocated before `start` and freed between `start` and `end`."""
        return self.freed(range(first, self.next_row(start)), start, end)

    def freed(self, rows: Iterable[int], start: int, end: int) -> list[int]:
        """Return the rows that are freed between two positions."""
        ends = self.ends
        return [row for row in rows if start <= ends[row] < end]

    def alive(self, position: int) -> list[int]:
        """Return the rows that are alive at a position, in the order of allocation."""
        cache, ends = self.alive_cache, self.ends
        if position not in cache:
            cache[position] = [row for row in range(self.next_row(position)) if ends[row] >= position]
        return cache[position]


def _free_positions(events: Sequence[int], rows: int) -> list[int]:
    """Return the position at which each row is freed. It is the number of events if the row is never freed."""
    ends = [len(events)] * rows
    for position, event in enumerate(events):
        if event < 0:
            ends[~event] = position
    return ends
