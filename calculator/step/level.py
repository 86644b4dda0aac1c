"""How many bytes are alive at each event of a step, the copies of its repeated layers counted in.

Each copy adds to what is alive what the interpreted layer adds from its beginning to its end (its growth). Within the
layer's own window the first copy sees none of the others' growth and the last sees all of it; what is alive is linear
in between, so the larger end holds the peak.
"""

from __future__ import annotations

from itertools import pairwise
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


class Section(NamedTuple):
    """Events over which what copies hold is the same: how often each growth has come, and the bytes of all of them."""

    start: int
    end: int
    repeats: tuple[int, ...]
    offset: int


class Level:
    """The bytes of one recording, and of no storage in particular.

    `live`: bytes alive after each event, without copies. `growth`: what a copy adds, by window. `drops`: what is freed
    for all copies at once, by position.
    """

    __slots__ = ("drops", "growth", "live", "sections", "windows")

    def __init__(
        self,
        live: list[int],
        windows: tuple[Window, ...],
        growth: tuple[int, ...],
        drops: tuple[tuple[int, int], ...],
    ) -> None:
        self.live = live
        self.windows = windows
        self.growth = growth
        self.drops = drops
        self.sections = self._sections()

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
        cuts = sorted({0, *turns, *(position for position, _ in self.drops)} - {end})
        return tuple([self._from(low, high) for low, high in pairwise([*cuts, end])])

    def _from(self, start: int, end: int) -> Section:
        repeats = self._repeats(start)
        return Section(start=start, end=end, repeats=repeats, offset=self._offset(start, repeats))

    def _section(self, position: int) -> Section:
        return next(section for section in self.sections if position < section.end)

    def _offset(self, position: int, repeats: tuple[int, ...]) -> int:
        held = sum([n * g for n, g in zip(repeats, self.growth, strict=True)])
        return held - sum([size for at, size in self.drops if at <= position])

    def _repeats(self, position: int) -> tuple[int, ...]:
        """How often each window's growth is in what is alive from this position on, at the worse end of its copies."""
        return tuple(
            [
                copies if position >= end or (position >= start and growth > 0) else 0
                for (_, start, end, copies), growth in zip(self.windows, self.growth, strict=True)
            ]
        )
