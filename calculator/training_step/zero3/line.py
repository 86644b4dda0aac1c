"""The peaks of the spans of a pass under stage 3. Spans of repeated layers have one peak per copy."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.memory_curve import Window
    from calculator.training_step.zero3.moments import Batch, Skipped
    from calculator.training_step.zero3.passes import Passes

#: A span of the tape: its first and last event.
Span = tuple[int, int]


def line(passes: Passes, spans: Sequence[Span], windows: Sequence[Window], *, backward: bool) -> list[int]:
    """Return the peak of each span of a pass, over all micro-batches."""
    number = int(backward)
    window = windows[number] if len(windows) > number else None
    lines = [_Line(batch, spans, window, number).peaks() for batch in passes.batches]
    return [max(peaks) for peaks in zip(*lines, strict=True)]


class _Line:
    """The peaks of the spans of a pass of one micro-batch."""

    def __init__(self, batch: Batch, spans: Sequence[Span], window: Window | None, number: int) -> None:
        self._spans, self._window, self._number = spans, window, number
        self._ends = [end for _, end in spans]
        inside = [] if window is None else [at for at, (low, high) in enumerate(spans) if self._repeats(low, high)]
        #: The first span of the repeated layers, and the span after their last one.
        self._first, self._last = (inside[0], inside[-1] + 1) if inside else (len(spans), len(spans))
        #: The maximum number of bytes by copy and span. Spans outside the copies count as copy 0.
        self._most: defaultdict[tuple[int, int], int] = defaultdict(int)
        for repeats, position, size in batch.moments:
            self._add(repeats, position, size)
        for skipped in batch.skipped:
            self._fill(skipped)

    def _repeats(self, low: int, high: int) -> bool:
        return self._window is not None and self._window.start <= low and high <= self._window.end

    def peaks(self) -> list[int]:
        """Return the peak of each span in order."""
        most, first, last = self._most, self._first, self._last
        copies = self._window.copies + 1 if self._window is not None else 0
        return [
            *(most[0, span] for span in range(first)),
            *(most[copy, span] for copy in range(copies) for span in range(first, last)),
            *(most[0, span] for span in range(last, len(self._spans))),
        ]

    def _add(self, repeats: tuple[int, ...], position: int, size: int) -> None:
        """Add a moment. A moment at the start of a copy belongs to the copy before."""
        if not self._spans[0][0] < position <= self._ends[-1]:
            return
        span = bisect_left(self._ends, position)
        copy = repeats[self._number] if self._window is not None else 0
        if span == self._first - 1 and copy and self._window is not None and position == self._window.start:
            span, copy = self._last - 1, copy - 1
        key = (copy if self._first <= span < self._last else 0), span
        self._most[key] = max(self._most[key], size)

    def _fill(self, skipped: Skipped) -> None:
        """Add the skipped copies. The bytes grow by the same amount from one to the next."""
        window = self._window
        if window is None or skipped.readings[0].position > window.end or skipped.readings[-1].position <= window.start:
            return
        own = skipped.repeats[self._number]
        for copy in range(1, skipped.copies + 1):
            repeats = [*skipped.repeats]
            repeats[self._number] += copy
            for reading in skipped.readings:
                self._add((*repeats,), reading.position, reading.bytes + copy * skipped.growth)
        if skipped.alike is None:
            return
        like, growth = skipped.alike
        for copy in range(like + 1, skipped.copies + 1):
            for span in range(self._first, self._last):
                before = self._most[own + copy - 1, span] + growth
                self._most[own + copy, span] = max(self._most[own + copy, span], before)
