"""A tape with its repeated layers counted: how many bytes are alive at each event, and which.

A layer that stands for `copies` more of its kind is interpreted once; what each copy adds in the forward and in the
backward pass is found here, and how much is alive with them all in `level`. What a copy gained and the code after the
layers frees (a cache) is freed for all copies there.
"""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.step.alive import Alive
from calculator.step.level import Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.state import Stored
    from calculator.step.alive import Counted
    from calculator.step.level import Moment, Window
    from calculator.step.tape import Born, Tape


class Recording:
    """The events of one micro-batch, folded. Rows before `shared` were born before the first layer.

    `changes`: what each event adds to the bytes; `ends`: the event that frees each row. `gained`: what one copy adds,
    by window; `dropped`: what is freed for all copies at once. `handed_on`: the row that a repeating period hands on to
    the next, where none is interpreted before it: checkpointed layers, each of which holds its input until its own
    backward pass and frees nothing else of the one before it.
    """

    __slots__ = ("changes", "dropped", "ends", "gained", "handed_on", "level", "net", "shared", "tape", "windows")

    def __init__(self, tape: Tape, windows: tuple[Window, ...], shared: int, handed_on: int | None = None) -> None:
        self.shared = shared
        self.handed_on = handed_on
        self.tape = tape
        self.windows = windows
        self.changes = _changes(tape)
        self.ends = _ends(tape)
        self.gained = [self._gain(window) if place else self._kept(window) for place, window in enumerate(windows)]
        self.net = _unreplaced(self.gained)
        self.dropped = tuple(self._drops())
        self.level = Level(
            list(accumulate(self.changes)),
            windows,
            tuple([sum([born[4] * n for born, n in gained.items()]) for gained in self.gained]),
            tuple([(at, copies * born[4]) for at, copies, born in self.dropped]),
        )

    def _kept(self, window: Window) -> Counter[Born]:
        """What one copy adds in the forward pass: what it leaves alive, less what the next layer frees of that.

        The next layer frees as much as this one frees of the period before it, if what comes after this one frees it
        too: a first layer that keeps less, its input needing no gradient, shows frees that no copy shows.
        """
        left = self._left(window)
        by_this = self._freed(self._born(window.before, window.start), window.start, window.end)
        if not by_this:
            return left
        after = self._freed(self._born(window.start, window.end), window.end, self._until())
        both = self._kinds(by_this) & self._kinds(after)
        return left - both if both else left

    def _gain(self, window: Window) -> Counter[Born]:
        """What one copy adds; tables that all layers share are freed once, not by every copy."""
        gained = self._left(window)
        before = range(self.shared, self._next_row(window.start))
        gained.subtract(self._kinds(self._freed(before, window.start, window.end)))
        if self.handed_on is not None:
            gained[self.tape.rows[self.handed_on]] -= 1
        return gained

    def _left(self, window: Window) -> Counter[Born]:
        """What a window leaves alive of what is born in it."""
        ends, end = self.ends, window.end
        return self._kinds([row for row in self._born(window.start, end) if ends[row] >= end])

    def _until(self) -> int:
        """Where the backward pass through the repeated layers begins."""
        return self.windows[1].start if len(self.windows) > 1 else len(self.tape.events)

    def _born(self, start: int, end: int) -> range:
        """The rows born between two positions: rows are numbered as they are born."""
        return range(self._next_row(start), self._next_row(end))

    def _next_row(self, position: int) -> int:
        """The first row that is born from a position on."""
        for event in self.tape.events[position:]:
            if event >= 0:
                return event
        return len(self.ends)

    def _freed(self, rows: range, start: int, end: int) -> list[int]:
        """Those of the rows that are freed between two positions."""
        ends = self.ends
        return [row for row in rows if start <= ends[row] < end]

    def _kinds(self, rows: list[int]) -> Counter[Born]:
        told = self.tape.rows
        return Counter([told[row] for row in rows])

    def _drops(self) -> Iterator[tuple[int, int, Born]]:
        """Frees of what every copy gained in a window, after it: position, copies, kind of storage.

        Between the passes that is what is freed both of the window's own period and of the one before it: a copy in
        the middle has copies on either side. After the backward window, what waits there for the code before the layers
        (a prefix's gradients).
        """
        for place, window in enumerate(self.windows):
            last = bool(place)
            here = self._freed(self._born(window.start, window.end), window.end, self._end if last else self._until())
            if here:
                yield from self._dropped(self.gained[place], here, window, last=last)

    def _dropped(
        self, gained: Counter[Born], here: list[int], window: Window, *, last: bool
    ) -> Iterator[tuple[int, int, Born]]:
        """The frees of rows, each kind as often as a copy gained it."""
        if last:
            left, rows = {born: count for born, count in gained.items() if count > 0}, here
        else:
            left = {born: min(count, gained[born]) for born, count in self._kinds(here).items()}
            alike = self._born(window.before, window.start)
            rows = self._freed(alike, window.end, self._until()) if alike else here
            rows = [row for row in rows if row != self.handed_on]
        for row in sorted(rows, key=self.ends.__getitem__):
            born = self.tape.rows[row]
            if left.get(born, 0) > 0:
                left[born] -= 1
                yield self.ends[row] + 1, window.copies, born

    @property
    def _end(self) -> int:
        return len(self.tape.events)

    def alive(self, moment: Moment, stored: Sequence[Stored] = (), left: Counter[Born] | None = None) -> Alive:
        """What is alive at a moment, beside tensors that stay and what is left of the step before."""
        counted: Counted = []
        for gained, repeats in zip(self.gained, moment.repeats, strict=True):
            counted += [(born, count * repeats) for born, count in gained.items()] if repeats else []
        counted += [(born, -copies) for at, copies, born in self.dropped if at <= moment.event]
        if left:
            counted += left.items()
        return Alive(stored, self._single(moment.event), counted)

    def at_the_end(self) -> Counter[Born]:
        """What stays alive after the step's last event, but for gradients, which the next step sets to None."""
        copies = self.windows[0].copies if self.windows else 0
        single = [born for born in self._single(self._end) if born[3] != "gradients"]
        counted = [(born, count * copies) for born, count in self.net.items() if count and born[3] != "gradients"]
        counted += [(born, -copies) for _, copies, born in self.dropped if born[3] != "gradients"]
        return Alive((), single, counted).kinds()

    def _single(self, position: int) -> list[Born]:
        """The interpreted storages alive at a position, in the order of their births."""
        ends, told = self.ends, self.tape.rows
        return [told[row] for row in range(self._next_row(position)) if ends[row] >= position]


def _unreplaced(gained: list[Counter[Born]]) -> Counter[Born]:
    """Take out gains that are in the place of what no copy gained: a gradient goes on in another of its shape.

    Returns what a copy adds in all windows together.
    """
    held: Counter[Born] = Counter()
    for own in gained:
        held.update(own)
        for lost in [born for born, count in held.items() if count < 0]:
            for born in [born for born, count in own.items() if count > 0 and born[1:3] == lost[1:3]]:
                moved = min(own[born], -held[lost])
                for counts in (own, held):
                    counts[born] -= moved
                    counts[lost] += moved
    return held


def _changes(tape: Tape) -> list[int]:
    """What each event adds: `n` finds a birth's bytes from the front, `~n` = -n - 1 an end's from the back."""
    sizes = [row[4] for row in tape.rows]
    of_rows = sizes + [-size for size in reversed(sizes)]
    return [*map(of_rows.__getitem__, tape.events)]


def _ends(tape: Tape) -> list[int]:
    """At which event each row is freed; one past the last where it stays."""
    ends = [len(tape.events)] * len(tape.rows)
    for position, event in enumerate(tape.events):
        if event < 0:
            ends[~event] = position
    return ends
