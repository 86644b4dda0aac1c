"""A tape with its repeated layers counted: how many bytes are alive at each event, and which.

A layer that stands for `copies` more of its kind is interpreted once. Each copy adds to what is alive what the
interpreted one adds from its beginning to its end (its growth), in the forward and in the backward pass. Within the
layer's own window the first copy sees none of the others' growth and the last sees all of it; what is alive is linear
in between, so the larger end holds the peak.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.step.tape import Born, Tape


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """The events `start` to `end` of a layer's forward or backward pass, and how many more layers it stands for."""

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

    __slots__ = ("growth", "live", "shared", "tape", "windows")

    def __init__(self, tape: Tape, windows: tuple[Window, ...], shared: int) -> None:
        self.shared = shared
        self.tape = tape
        self.windows = windows
        self.live = _running(tape)
        self.growth = tuple(sum(born[4] * n for born, n in self._gained(window).items()) for window in windows)

    def _at(self, position: int) -> int:
        return self.live[position - 1] if position else 0

    def _gained(self, window: Window) -> Counter[Born]:
        """What one copy adds; tables that all layers share are freed once, not by every copy."""
        gained: Counter[Born] = Counter()
        rows, shared = self.tape.rows, self.shared
        for event in self.tape.events[window.start : window.end]:
            if event >= 0:
                gained[rows[event]] += 1
            elif ~event >= shared:
                gained[rows[~event]] -= 1
        return gained

    def peak(self, start: int, end: int) -> Moment:
        """The moment with the most bytes between two positions."""
        best = Moment(event=start, bytes=self._at(start), repeats=self._repeats(start))
        cuts = sorted({start, end, *(p for w in self.windows for p in (w.start, w.end) if start < p < end)})
        for low, high in zip(cuts, cuts[1:], strict=False):
            repeats = self._repeats(low)
            offset = sum(n * g for n, g in zip(repeats, self.growth, strict=True))
            highest = max(self.live[low:high], default=0) + offset
            if highest > best.bytes:
                event = self.live.index(highest - offset, low, high)
                best = Moment(event=event + 1, bytes=highest, repeats=repeats)
        return best

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
        for window, repeats in zip(self.windows, moment.repeats, strict=True):
            if repeats:
                for born, count in self._gained(window).items():
                    alive[born] += count * repeats
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


def _running(tape: Tape) -> list[int]:
    sizes = [row[4] for row in tape.rows]
    total, live = 0, []
    for event in tape.events:
        total += sizes[event] if event >= 0 else -sizes[~event]
        live.append(total)
    return live
