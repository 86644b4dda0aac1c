"""Loops of a forward pass whose iterations allocate the same tensors.

Five iterations are interpreted, and one of them is repeated.

An iteration refers to its own tensors, to those of the neighboring iterations, and to tensors outside the loop. The
third iteration is the first one with two similar iterations on both sides. Its events are repeated for the iterations
that are not interpreted: in order in the forward pass, and in reverse in the backward pass. `expanded` returns the tape
with the events of every iteration.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import groupby
from operator import add, sub
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.autograd import Node
from calculator.engine.tape import Tape, Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: The interpreted iterations: two at the start, the one that is repeated, and two at the end.
INTERPRETED = 5
_FIRST, _LAST = 1, 4

#: With this many skipped iterations, `_repeated` extrapolates row numbers from two neighboring iterations.
_EVEN = 3


class Loop:
    """One pass through a loop of `count` iterations.

    `skipped` iterations are not interpreted. `forward` has the event positions at which the second to the fifth
    iteration begin. `backward` has the positions at which their backward passes end.
    """

    __slots__ = ("backward", "forward", "interpreted", "iteration", "skipped")

    def __init__(self, tape: Tape, count: int) -> None:
        self.skipped = count - INTERPRETED if tape.folds_loops and count > INTERPRETED else 0
        self.interpreted = count - self.skipped
        self.iteration = 0
        self.forward: list[int] = []
        self.backward: list[int] = []
        if self.skipped:
            tape.loops.append(self)

    def begin(self, state: Tensor) -> Tensor:
        """Begin an iteration. `state` is the tensor that the iteration before it passes on."""
        if self.skipped and _FIRST <= self.iteration <= _LAST:
            self.forward.append(len(state.tape.events))
            node = Node(state.tape, _end_backward, (state.edge,), self) if state.edge else None
            state = Tensor(state.tape, state.storage, state.shape, state.dtype, node)
        self.iteration += 1
        return state


def _end_backward(node: Node, grad: Tensor) -> tuple[Tensor]:
    node.context.backward.append(len(grad.tape.events))
    return (grad,)


class _Window(NamedTuple):
    """The events of one iteration in one pass, and the rows that they allocate.

    Attributes:
        skipped: The number of iterations that are not interpreted. The window at place 0 is repeated for them.
        before: The rows that repetitions of earlier windows add. The numbers of its rows grow by as many.
        step: Whether the pass runs the iterations in order (1) or in reverse (-1).
        place: Which iteration it is: -1 for the second, 0 for the third, 1 for the fourth.
        group: The number of the pass, which its three windows share.
    """

    start: int
    end: int
    first_row: int
    last_row: int
    skipped: int
    before: int
    step: int
    place: int
    group: int

    @property
    def rows(self) -> int:
        return self.last_row - self.first_row

    def row(self, row: int, iteration: int) -> int:
        """Return the number of a row in an iteration of the repeated window."""
        in_time = iteration if self.step > 0 else self.skipped - iteration
        return row + self.before + in_time * self.rows


def expanded(tape: Tape) -> Tape:
    """Return a copy of a tape with the events of all iterations. Marks keep their place among the events."""
    if not tape.loops:
        return tape.copy()
    return _Expansion(tape).tape()


class _Expansion:
    """The windows of all loops of a tape, and the numbers that its rows get when all iterations are listed."""

    __slots__ = ("_first", "_kept", "_last", "_middles", "_moved", "_owner", "_starts", "_tape", "_windows")

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        #: From each start on, by how many positions events move.
        self._starts, self._moved = [0], [0]
        self._windows = [*_windows(tape)]
        self._middles = {window.group: window for window in self._windows if not window.place}
        #: The window that allocates a row, for rows that a window allocates.
        self._owner = {row: w for w in self._windows for row in range(w.first_row, w.last_row)}
        #: The new number of each row. A repeated row has its number in the first and in the last repetition.
        self._first, self._last = self._numbers(), self._numbers()
        for window in self._middles.values():
            rows_of_window = slice(window.first_row, window.last_row)
            self._first[rows_of_window] = [
                window.row(row, 0) for row in range(rows_of_window.start, rows_of_window.stop)
            ]
            self._last[rows_of_window] = [
                window.row(row, window.skipped) for row in range(rows_of_window.start, rows_of_window.stop)
            ]
        freed = {~event for w in self._windows for event in tape.events[w.start : w.end] if event < 0}
        #: Return the new number of every row that is not repeated.
        self._kept = {row for w in self._middles.values() for row in range(w.first_row, w.last_row)} - freed

    def _numbers(self) -> list[int]:
        """Return the number of every row that is not repeated."""
        numbers, count = list[int](), len(self._tape.rows)
        for window in self._middles.values():
            numbers += range(len(numbers) + window.before, window.last_row + window.before)
        added = sum(window.skipped * window.rows for window in self._middles.values())
        return [*numbers, *range(len(numbers) + added, count + added)]

    def tape(self) -> Tape:
        """Return the tape with all events."""
        old, new = self._tape, self._tape.copy()
        new.rows, new.events, position, row = [], [], 0, 0
        for window in self._windows:
            self._add_outside(new, position, window.start)
            new.rows += old.rows[row : window.last_row]
            if window.place:
                new.events += self._renumbered(
                    window.start, window.end, self._first if window.place < 0 else self._last
                )
            else:
                for events in self._repeated(window):
                    new.events += events
                new.rows += old.rows[window.first_row : window.last_row] * window.skipped
                self._move(new, window.end)
            position, row = window.end, window.last_row
        self._add_outside(new, position, len(old.events))
        new.rows += old.rows[row:]
        new.marks = [(at + self._moved[bisect_right(self._starts, at) - 1], label) for at, label in old.marks]
        new.marked_rows = {label: self._first[row] for label, row in old.marked_rows.items()}
        return new

    def _move(self, new: Tape, position: int) -> None:
        """Store by how many positions the events from a position on move."""
        self._starts.append(position)
        self._moved.append(len(new.events) - position)

    def _renumbered(self, start: int, end: int, numbers: Sequence[int]) -> list[int]:
        """Return events that occur once, with the new numbers of their rows."""
        return [numbers[event] if event >= 0 else ~numbers[~event] for event in self._tape.events[start:end]]

    def _add_outside(self, new: Tape, start: int, end: int) -> None:
        """Add events outside the windows.

        Frees of repeated rows are added iteration by iteration.
        """
        if not self._kept:
            new.events += self._renumbered(start, end, self._first)
            return
        for window, group in groupby(range(start, end), self._kept_by):
            positions = [*group]
            if window is None:
                new.events += self._renumbered(positions[0], positions[-1] + 1, self._first)
                continue
            rows = [~self._tape.events[at] for at in positions]
            new.events += [~window.row(row, n) for n in range(window.skipped + 1) for row in rows]
            self._move(new, positions[-1] + 1)

    def _kept_by(self, position: int) -> _Window | None:
        """Return the window of the repeated row that an event frees, or None for other events."""
        row = ~self._tape.events[position]
        return self._owner[row] if row in self._kept else None

    def _repeated(self, window: _Window) -> Iterator[Sequence[int]]:
        """Yield the events of each repetition of a window in the order of time.

        Between the first and the last repetition, row numbers grow evenly.
        """
        skipped = window.skipped
        order = range(skipped + 1)[:: window.step]
        if skipped < _EVEN:
            yield from (self._iteration_events(window, iteration) for iteration in order)
            return
        yield self._iteration_events(window, order[0])
        events = self._iteration_events(window, order[1])
        steps = [*map(sub, self._iteration_events(window, order[2]), events)]
        for _ in range(skipped - 1):
            yield events
            events = [*map(add, events, steps)]
        yield self._iteration_events(window, order[-1])

    def _iteration_events(self, window: _Window, iteration: int) -> list[int]:
        """Return the events of one iteration."""
        number = self._number
        return [
            number(event, iteration) if event >= 0 else ~number(~event, iteration)
            for event in self._tape.events[window.start : window.end]
        ]

    def _number(self, row: int, iteration: int) -> int:
        """Return the new number of a row that an event of an iteration refers to.

        If a neighboring window allocates the row, it is a row of the neighboring iteration.
        """
        owner = self._owner.get(row)
        if owner is None or not 0 <= iteration + owner.place <= owner.skipped:
            return self._first[row]
        middle = self._middles[owner.group]
        return middle.row(row - owner.first_row + middle.first_row, iteration + owner.place)


def _windows(tape: Tape) -> Iterator[_Window]:
    """Yield the windows of all loops in the order of events."""
    windows: list[tuple[int, int, int, int, int, int]] = []
    for loop in tape.loops:
        for step, bounds in ((1, loop.forward), (-1, loop.backward)):
            group = len(windows)
            places = (-1, 0, 1)[::step]
            windows += [
                (start, end, loop.skipped, step, place, group)
                for place, start, end in zip(places, bounds, bounds[1:], strict=False)
            ]
    before, rows, at = 0, 0, 0
    for start, end, skipped, step, place, group in sorted(windows):
        rows += _allocated(tape.events[at:start])
        allocated = _allocated(tape.events[start:end])
        yield _Window(start, end, rows, rows + allocated, skipped, before, step, place, group)
        before += 0 if place else skipped * allocated
        rows, at = rows + allocated, end


def _allocated(events: Sequence[int]) -> int:
    return sum([event >= 0 for event in events])
