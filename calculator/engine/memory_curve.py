"""The bytes that are alive at each event of a step, with the copies of its repeated layers counted.

The layers of a window have the same events, so only one of them is interpreted. The others are its copies. Each copy
adds what the interpreted layer adds from its start to its end: the window's growth. Inside the window, the first copy
sees none of the others' growth, and the last copy sees all of it. The bytes alive grow linearly in between, so the peak
is in the first or in the last copy.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence


class Window(NamedTuple):
    """The events `start` to `end` of a layer's forward or backward pass, which `copies` more layers repeat.

    `before` is the start of the period before this one.
    """

    before: int
    start: int
    end: int
    copies: int


class Moment(NamedTuple):
    """One event of a step.

    It has its position, the bytes alive after it, and the number of copies of each window before it.
    """

    event: int
    bytes: int
    repeats: tuple[int, ...]


def peak_after(start: int, before: int, changes: list[int], window: Window | None, growth: int) -> Moment:
    """Return the moment with the most bytes from a position on, before which some bytes are alive.

    It is that of a `MemoryCurve` with one window or none, of which nothing else is read. `changes` are those from the
    position on, and are overwritten.
    """
    copied = 0
    if window is not None:
        copied = window.start if growth > 0 else window.end
        changes[copied - start] += window.copies * growth
    alive = [*accumulate(changes, initial=before)]
    most = max(alive)
    event = start + alive.index(most)
    repeats = () if window is None else (window.copies if event > copied else 0,)
    return Moment(event=event, bytes=most, repeats=repeats)


class MemoryCurve:
    """The bytes alive over the events of one step."""

    __slots__ = ("_peaks", "bytes", "changes", "copy_changes", "drops", "growth", "windows")

    def __init__(
        self,
        changes: Sequence[int],
        windows: tuple[Window, ...],
        growth: tuple[int, ...],
        drops: tuple[tuple[int, int], ...],
    ) -> None:
        #: The bytes that each event adds, without copies.
        self.changes = changes
        self.windows = windows
        #: The bytes that one copy of each window adds.
        self.growth = growth
        #: Frees of all copies at once: (position, bytes).
        self.drops = drops
        #: The bytes that all copies together add, by position.
        self.copy_changes = self._copy_changes()
        changed = [*changes, 0]
        for position, size in self.copy_changes.items():
            changed[position] += size
        #: The bytes alive after each event: in a window, those of the copy with the most.
        self.bytes = [*accumulate(changed)]
        #: The peaks that have been read, by the positions around them.
        self._peaks: dict[tuple[int, int], Moment] = {}

    def peak_bytes(self, start: int, end: int) -> int:
        """Return the peak bytes between two positions."""
        before = self.before(start)
        return max(before, max(self.bytes[start:end], default=before))

    def before(self, start: int) -> int:
        """Return the bytes alive before the event at a position, with the copies that are counted there."""
        return (self.bytes[start - 1] if start else 0) + self.copy_changes.get(start, 0)

    def before_last_copy(self, window: Window) -> int:
        """Return the bytes alive before the last copy of a window."""
        growth = self.growth[self.windows.index(window)]
        return self.before(window.start) + (0 if growth > 0 else window.copies * growth)

    def at(self, position: int) -> Moment:
        """Return the moment before the event at a position."""
        return Moment(event=position, bytes=self.before(position), repeats=self._repeats(position))

    def peak(self, start: int, end: int) -> Moment:
        """Return the moment with the most bytes between two positions, the first one if several have as many."""
        known = self._peaks.get((start, end))
        if known is None:
            known = self._peaks[start, end] = self._peak(start, end)
        return known

    def _peak(self, start: int, end: int) -> Moment:
        before = self.before(start)
        most = max(self.bytes[start:end], default=before)
        if most <= before:
            return self.at(start)
        at = self.bytes.index(most, start, end)
        return Moment(event=at + 1, bytes=most, repeats=self._repeats(at))

    def net_change(self, start: int, end: int) -> int:
        """Return the bytes that the events between two positions add, without copies."""
        return sum(self.changes[start:end])

    def without_copies(self, start: int, end: int) -> list[int]:
        """Return the bytes alive after each event between two positions, without copies."""
        return [*accumulate(self.changes[:end])][start:]

    def window_in(self, start: int, end: int) -> Window | None:
        """Return the window between two positions, if there is one."""
        return next((w for w in self.windows if start <= w.start and w.end <= end), None)

    def peak_of_copy(self, start: int, end: int, window: Window, copy: int) -> int:
        """Return the peak bytes between two positions inside a window, in one of its copies. The first copy is 0."""
        repeats = list(self._repeats(start))
        repeats[self.windows.index(window)] = copy
        copied = sum([n * g for n, g in zip(repeats, self.growth, strict=True)])
        dropped = sum([size for at, size in self.drops if at <= start])
        return self._most_without_copies(start, end) + copied - dropped

    def _most_without_copies(self, start: int, end: int) -> int:
        """Return the peak bytes alive after an event between two positions, without copies."""
        copied = [(at, size) for at, size in self.copy_changes.items() if at < end]
        if any(start < at for at, _ in copied):
            return max(self.without_copies(start, end), default=0)
        return max(self.bytes[start:end], default=0) - sum([size for _, size in copied])

    def _copy_changes(self) -> dict[int, int]:
        """Return the bytes that copies add, by position.

        A window adds its growth once per copy at its start. A negative growth is added at its end.
        """
        changes: dict[int, int] = {}
        for (_, start, end, copies), growth in zip(self.windows, self.growth, strict=True):
            at = start if growth > 0 else end
            changes[at] = changes.get(at, 0) + copies * growth
        for at, size in self.drops:
            changes[at] = changes.get(at, 0) - size
        return changes

    def _repeats(self, position: int) -> tuple[int, ...]:
        """Return how many copies of each window are counted at a position.

        Inside a window, it is the number at the end of the window that has the most bytes.
        """
        return tuple(
            [
                copies if position >= end or (position >= start and growth > 0) else 0
                for (_, start, end, copies), growth in zip(self.windows, self.growth, strict=True)
            ]
        )
