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
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

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


class Recording:
    """The events of one micro-batch, folded. Rows before `shared` were born before the first layer."""

    __slots__ = ("dropped", "gained", "growth", "live", "shared", "tape", "windows")

    def __init__(self, tape: Tape, windows: tuple[Window, ...], shared: int) -> None:
        self.shared = shared
        self.tape = tape
        self.windows = windows
        self.live = _running(tape)
        self.gained = _unreplaced(
            [self._gain(window) if place else self._kept(window) for place, window in enumerate(windows)]
        )
        self.growth = tuple(sum(born[4] * n for born, n in gained.items()) for gained in self.gained)
        self.dropped = tuple(self._drops())

    def _at(self, position: int) -> int:
        return self.live[position - 1] if position else 0

    def _kept(self, window: Window) -> Counter[Born]:
        """What one copy adds in the forward pass: what it leaves alive, less what the next layer frees of that.

        The next layer frees as much as this one frees of the period before it, if what comes after this one frees it
        too: a first layer that keeps less, its input needing no gradient, shows frees that no copy shows.
        """
        events, rows = self.tape.events, self.tape.rows
        born = {event for event in events[window.start : window.end] if event >= 0}
        freed = {~event for event in events[window.start : window.end] if event < 0}
        before = {event for event in events[window.before : window.start] if event >= 0}
        left = Counter(rows[event] for event in born - freed)
        by_this = Counter(rows[event] for event in before & freed)
        after = Counter(kind for _, kind in self._freed_between(window.start, window.end, window.end, self._until()))
        return left - (by_this & after)

    def _until(self) -> int:
        """Where the backward pass through the repeated layers begins."""
        return self.windows[1].start if len(self.windows) > 1 else len(self.tape.events)

    def _gain(self, window: Window) -> Counter[Born]:
        """What one copy adds; tables that all layers share are freed once, not by every copy."""
        gained: Counter[Born] = Counter()
        rows, shared = self.tape.rows, self.shared
        for event in self.tape.events[window.start : window.end]:
            if event >= 0:
                gained[rows[event]] += 1
            elif ~event >= shared:
                gained[rows[~event]] -= 1
        return gained

    def _drops(self) -> Iterator[tuple[int, int, Born]]:
        """Frees of what every copy gained in a window, after it: position, copies, kind of storage.

        Between the passes that is what is freed both of the window's own period and of the one before it: a copy in
        the middle has copies on either side. After the backward window, what waits there for the code before the layers
        (a prefix's gradients).
        """
        for window, gained in zip(self.windows[:1], self.gained, strict=False):
            until = self._until()
            here = Counter(born for _, born in self._freed_between(window.start, window.end, window.end, until))
            before = self._freed_between(window.before, window.start, window.end, until)
            left = here & Counter({born: count for born, count in gained.items() if count > 0})
            for position, born in before:
                if left[born] > 0:
                    left[born] -= 1
                    yield position, window.copies, born
        for window, gained in zip(self.windows[1:], self.gained[1:], strict=True):
            left = +gained
            for position, born in self._freed_between(window.start, window.end, window.end, len(self.tape.events)):
                if left[born] > 0:
                    left[born] -= 1
                    yield position, window.copies, born

    def _freed_between(self, start: int, end: int, after: int, until: int) -> Iterator[tuple[int, Born]]:
        """Frees in `after` to `until` of what was born in `start` to `end`."""
        events, rows = self.tape.events, self.tape.rows
        born = {event for event in events[start:end] if event >= 0}
        for position in range(after, until):
            event = events[position]
            if event < 0 and ~event in born:
                yield position + 1, rows[~event]

    def peak(self, start: int, end: int) -> Moment:
        """The moment with the most bytes between two positions."""
        first = self._repeats(start)
        best = Moment(event=start, bytes=self._at(start) + self._offset(start, first), repeats=first)
        cuts = sorted({start, end, *(p for p in self._turns() if start < p < end)})
        for low, high in pairwise(cuts):
            repeats = self._repeats(low)
            offset = self._offset(low, repeats)
            highest = max(self.live[low:high], default=0) + offset
            if highest > best.bytes:
                event = self.live.index(highest - offset, low, high)
                best = Moment(event=event + 1, bytes=highest, repeats=repeats)
        return best

    def window_in(self, start: int, end: int) -> Window | None:
        """The window that lies between two positions, if one does."""
        return next((w for w in self.windows if start <= w.start and w.end <= end), None)

    def highest(self, start: int, end: int, window: Window, copy: int) -> int:
        """The most bytes between two positions inside a window, in one of its copies, the first being 0."""
        repeats = list(self._repeats(start))
        place = self.windows.index(window)
        repeats[place] = copy
        return max(self.live[start:end], default=0) + self._offset(start, tuple(repeats))

    def _turns(self) -> Iterator[int]:
        """Positions at which what the copies hold changes."""
        for window in self.windows:
            yield window.start
            yield window.end
        for position, _, _ in self.dropped:
            yield position

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

    def rows(self, moment: Moment) -> Counter[Born]:
        """How many of each kind of storage are alive at a moment."""
        alive = self._alive(moment.event)
        for gained, repeats in zip(self.gained, moment.repeats, strict=True):
            for born, count in gained.items():
                alive[born] += count * repeats
        for at, copies, born in self.dropped:
            if at <= moment.event:
                alive[born] -= copies
        return +alive

    def _alive(self, position: int) -> Counter[Born]:
        counts: Counter[Born] = Counter()
        alive: set[int] = set()
        for event in self.tape.events[:position]:
            if event >= 0:
                alive.add(event)
            else:
                alive.discard(~event)
        rows = self.tape.rows
        for row in alive:
            counts[rows[row]] += 1
        return counts


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
    sizes = [row[4] for row in tape.rows]
    total, live = 0, []
    for event in tape.events:
        total += sizes[event] if event >= 0 else -sizes[~event]
        live.append(total)
    return live
