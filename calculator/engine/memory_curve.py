"""How many bytes are alive at each event of a step, the copies of its repeated layers counted in.

Each copy adds to what is alive what the interpreted layer adds from its beginning to its end (its growth). Within the
layer's own window the first copy sees none of the others' growth and the last sees all of it; what is alive is linear
in between, so the larger end holds the peak.
"""

from __future__ import annotations

from itertools import accumulate
from typing import NamedTuple


class Window(NamedTuple):
    """The events `start` to `end` of a layer's forward or backward pass, and how many more layers it stands for.

    `before` is where the same period before it begins.
    """

    before: int
    start: int
    end: int
    copies: int


class Moment(NamedTuple):
    """One event of the step: its position, the bytes alive after it, and how often each window's growth has come."""

    event: int
    bytes: int
    repeats: tuple[int, ...]


class MemoryCurve:
    """The bytes of one recording, and of no storage in particular.

    `changes`: what each event adds, without copies. `growth`: what a copy adds, by window. `drops`: what is freed for
    all copies at once, by position. `turns`: what copies add from a position on; `bytes`: what is alive after each
    event, with the copies at the worse end.
    """

    __slots__ = ("bytes", "changes", "drops", "growth", "turns", "windows")

    def __init__(
        self,
        changes: list[int],
        windows: tuple[Window, ...],
        growth: tuple[int, ...],
        drops: tuple[tuple[int, int], ...],
    ) -> None:
        self.changes = changes
        self.windows = windows
        self.growth = growth
        self.drops = drops
        self.turns = self._turns()
        changed = [*changes, 0]
        for position, size in self.turns.items():
            changed[position] += size
        self.bytes = [*accumulate(changed)]

    def peak(self, start: int, end: int) -> Moment:
        """The moment with the most bytes between two positions: the first of several."""
        before = (self.bytes[start - 1] if start else 0) + self.turns.get(start, 0)
        most = max(self.bytes[start:end], default=before)
        if most <= before:
            return Moment(event=start, bytes=before, repeats=self._repeats(start))
        at = self.bytes.index(most, start, end)
        return Moment(event=at + 1, bytes=most, repeats=self._repeats(at))

    def gained(self, start: int, end: int) -> int:
        """What is added between two positions, without copies."""
        return sum(self.changes[start:end])

    def alone(self, start: int, end: int) -> list[int]:
        """The bytes alive after each event between two positions, without copies."""
        return [*accumulate(self.changes[:end])][start:]

    def window_in(self, start: int, end: int) -> Window | None:
        """The window that lies between two positions, if one does."""
        return next((w for w in self.windows if start <= w.start and w.end <= end), None)

    def highest(self, start: int, end: int, window: Window, copy: int) -> int:
        """The most bytes between two positions inside a window, in one of its copies, the first being 0."""
        repeats = list(self._repeats(start))
        repeats[self.windows.index(window)] = copy
        held = sum([n * g for n, g in zip(repeats, self.growth, strict=True)])
        dropped = sum([size for at, size in self.drops if at <= start])
        return max(self.alone(start, end), default=0) + held - dropped

    def _turns(self) -> dict[int, int]:
        """Growth comes for all copies where a window begins, what it takes away where it ends."""
        turns: dict[int, int] = {}
        for (_, start, end, copies), growth in zip(self.windows, self.growth, strict=True):
            at = start if growth > 0 else end
            turns[at] = turns.get(at, 0) + copies * growth
        for at, size in self.drops:
            turns[at] = turns.get(at, 0) - size
        return turns

    def _repeats(self, position: int) -> tuple[int, ...]:
        """How often each window's growth is in what is alive from this position on, at the worse end of its copies."""
        return tuple(
            [
                copies if position >= end or (position >= start and growth > 0) else 0
                for (_, start, end, copies), growth in zip(self.windows, self.growth, strict=True)
            ]
        )
