"""A tape with its repeated layers counted: how many bytes are alive at each event, and which.

A layer that stands for `copies` more of its kind is interpreted once. Each copy adds to what is alive what the
interpreted one adds from its beginning to its end (its growth), in the forward and in the backward pass. Within the
layer's own window the first copy sees none of the others' growth and the last sees all of it; what is alive is linear
in between, so the larger end holds the peak. What a copy gained and the code after the layers frees (a cache) is freed
for all copies there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.answer import ComponentName
    from calculator.step.tape import Born, Tape


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The events `start` to `end` of a layer's forward or backward pass, and how many more layers it stands for.

    `before` is where the same period before it begins.
    """

    before: int
    start: int
    end: int
    copies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One event of the step: its position, the bytes alive after it, and how often each window's growth has come."""

    event: int
    bytes: int
    repeats: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Events over which what copies hold is the same: how often each growth has come, and the bytes of all of them."""

    start: int
    end: int
    repeats: tuple[int, ...]
    offset: int


class Recording:
    """The events of one micro-batch, folded. Rows before `shared` were born before the first layer.

    `live`: bytes alive after each event, without copies. `ends`: the event that frees each row. `handed_on`: the row
    that a repeating period hands on to the next, where none is interpreted before it: checkpointed layers, each of
    which holds its input until its own backward pass and frees nothing else of the one before it.
    """

    __slots__ = ("dropped", "ends", "gained", "growth", "handed_on", "live", "sections", "shared", "tape", "windows")

    def __init__(self, tape: Tape, windows: tuple[Window, ...], shared: int, handed_on: int | None = None) -> None:
        self.shared = shared
        self.handed_on = handed_on
        self.tape = tape
        self.windows = windows
        self.live = _running(tape)
        self.ends = _ends(tape)
        self.gained = _unreplaced(
            [self._gain(window) if place else self._kept(window) for place, window in enumerate(windows)]
        )
        self.growth = tuple(sum(born[4] * n for born, n in gained.items()) for gained in self.gained)
        self.dropped = tuple(self._drops())
        self.sections = self._sections()

    def _kept(self, window: Window) -> Counter[Born]:
        """What one copy adds in the forward pass: what it leaves alive, less what the next layer frees of that.

        The next layer frees as much as this one frees of the period before it, if what comes after this one frees it
        too: a first layer that keeps less, its input needing no gradient, shows frees that no copy shows.
        """
        by_this = self._kinds(self._freed(self._born(window.before, window.start), window.start, window.end))
        after = self._kinds(self._freed(self._born(window.start, window.end), window.end, self._until()))
        return self._left(window) - (by_this & after)

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
        return self.windows[1].start if len(self.windows) > 1 else len(self.live)

    def _born(self, start: int, end: int) -> range:
        """The rows born between two positions: rows are numbered as they are born."""
        return range(self._next_row(start), self._next_row(end))

    def _next_row(self, position: int) -> int:
        return next((event for event in self.tape.events[position:] if event >= 0), len(self.ends))

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
        for window, gained in zip(self.windows[:1], self.gained, strict=False):
            until = self._until()
            here = self._kinds(self._freed(self._born(window.start, window.end), window.end, until))
            left = here & +gained
            alike = self._born(window.before, window.start) or self._born(window.start, window.end)
            before = [row for row in self._freed(alike, window.end, until) if row != self.handed_on]
            yield from self._dropped(left, before, window)
        for window, gained in zip(self.windows[1:], self.gained[1:], strict=True):
            left = +gained
            after = self._freed(self._born(window.start, window.end), window.end, len(self.live)) if left else []
            yield from self._dropped(left, after, window)

    def _dropped(self, left: Counter[Born], rows: list[int], window: Window) -> Iterator[tuple[int, int, Born]]:
        """The frees of rows, each kind as often as it is left."""
        for row in sorted(rows, key=self.ends.__getitem__):
            born = self.tape.rows[row]
            if left[born] > 0:
                left[born] -= 1
                yield self.ends[row] + 1, window.copies, born

    def peak(self, start: int, end: int) -> Moment:
        """The moment with the most bytes between two positions."""
        first = self._section(start)
        event, most, repeats = start, (self.live[start - 1] if start else 0) + first.offset, first.repeats
        for section in self.sections:
            low, high = max(start, section.start), min(end, section.end)
            highest = max(self.live[low:high], default=0) + section.offset
            if low < high and highest > most:
                event = self.live.index(highest - section.offset, low, high) + 1
                most, repeats = highest, section.repeats
        return Moment(event=event, bytes=most, repeats=repeats)

    def window_in(self, start: int, end: int) -> Window | None:
        """The window that lies between two positions, if one does."""
        return next((w for w in self.windows if start <= w.start and w.end <= end), None)

    def highest(self, start: int, end: int, window: Window, copy: int) -> int:
        """The most bytes between two positions inside a window, in one of its copies, the first being 0."""
        repeats = list(self._section(start).repeats)
        repeats[self.windows.index(window)] = copy
        return max(self.live[start:end], default=0) + self._offset(start, tuple(repeats))

    def _sections(self) -> tuple[Section, ...]:
        """The whole tape, cut where what the copies hold changes."""
        end = len(self.live) + 1
        turns = {turn for window in self.windows for turn in (window.start, window.end)}
        cuts = sorted({0, *turns, *(position for position, _, _ in self.dropped)} - {end})
        return tuple(self._from(low, high) for low, high in pairwise([*cuts, end]))

    def _from(self, start: int, end: int) -> Section:
        repeats = self._repeats(start)
        return Section(start=start, end=end, repeats=repeats, offset=self._offset(start, repeats))

    def _section(self, position: int) -> Section:
        return next(section for section in self.sections if position < section.end)

    def _offset(self, position: int, repeats: tuple[int, ...]) -> int:
        held = sum(n * g for n, g in zip(repeats, self.growth, strict=True))
        return held - sum(copies * born[4] for at, copies, born in self.dropped if at <= position)

    def _repeats(self, position: int) -> tuple[int, ...]:
        """How often each window's growth is in what is alive from this position on, at the worse end of its copies."""
        repeats = []
        for window, growth in zip(self.windows, self.growth, strict=True):
            inside = window.start <= position < window.end
            counted = position >= window.end or (inside and growth > 0)
            repeats.append(window.copies if counted else 0)
        return tuple(repeats)

    def count(self, moment: Moment, totals: dict[ComponentName, int]) -> None:
        """Add to each component the bytes of its storages that are alive at a moment."""
        for born in self._alive(moment.event):
            totals[born[3]] += born[4]
        for gained, repeats in zip(self.gained, moment.repeats, strict=True):
            for born, count in gained.items() if repeats else ():
                totals[born[3]] += born[4] * count * repeats
        for at, copies, born in self.dropped:
            if at <= moment.event:
                totals[born[3]] -= born[4] * copies

    def _alive(self, position: int) -> list[Born]:
        """The interpreted storages alive at a position, in the order of their births."""
        ends, told = self.ends, self.tape.rows
        return [told[row] for row in range(self._next_row(position)) if ends[row] >= position]

    def rows(self, moment: Moment) -> Counter[Born]:
        """How many of each kind of storage are alive at a moment, in the order of their births."""
        alive = Counter(self._alive(moment.event))
        for gained, repeats in zip(self.gained, moment.repeats, strict=True):
            for born, count in gained.items() if repeats else ():
                alive[born] += count * repeats
        for at, copies, born in self.dropped:
            if at <= moment.event:
                alive[born] -= copies
        return +alive


def _unreplaced(gained: list[Counter[Born]]) -> tuple[Counter[Born], ...]:
    """Gains without those that take the place of what no copy gained: a gradient goes on in another of its shape."""
    held: Counter[Born] = Counter()
    for own in gained:
        held.update(own)
        for lost in [born for born, count in held.items() if count < 0]:
            for born in [born for born, count in own.items() if count > 0 and born[1:3] == lost[1:3]]:
                moved = min(own[born], -held[lost])
                for counts in (own, held):
                    counts[born] -= moved
                    counts[lost] += moved
    return tuple(gained)


def _running(tape: Tape) -> list[int]:
    """Bytes alive after each event: `n` finds a birth's bytes from the front, `~n` = -n - 1 an end's from the back."""
    sizes = [row[4] for row in tape.rows]
    changes = sizes + [-size for size in reversed(sizes)]
    return list(accumulate(map(changes.__getitem__, tape.events)))


def _ends(tape: Tape) -> list[int]:
    """At which event each row is freed; one past the last where it stays."""
    ends = [len(tape.events)] * len(tape.rows)
    for position, event in enumerate(tape.events):
        if event < 0:
            ends[~event] = position
    return ends
