"""The bytes of a micro-batch at each position of its tape, for each copy of its repeated layers."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.engine.live_tensors import LiveKinds, StorageCounts
from calculator.engine.memory_curve import Moment

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.recording import Recording
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.training_step.zero3.moments import PeakMoment


class Curve:
    """The bytes alive before each event.

    `repeats` are the numbers of copies before it, one for each pass.
    """

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self.growth = recording.curve.growth
        #: By position, the bytes that all copies free at once after an event.
        self.freed = {at: 0 for at, _ in recording.curve.drops}
        for at, size in recording.curve.drops:
            self.freed[at] += size
        self._bytes = self._accumulated(recording.curve.changes)
        #: The bytes before each event in the last copy of the backward pass, which frees tables that earlier copies
        #: keep.
        self._in_last = self._accumulated(recording.changes) if recording.retained_by_copies else self._bytes

    def _accumulated(self, changes: Sequence[int]) -> list[int]:
        steps = [*changes, 0]
        for at, size in self.freed.items():
            steps[at] -= size
        return [0, *accumulate(steps)]

    def _is_last(self, repeats: tuple[int, ...]) -> bool:
        """Return whether the last copy of the backward pass is running, or has run."""
        windows = self._recording.windows
        return len(windows) > 1 and repeats[1] == windows[1].copies

    def without_copies(self, repeats: tuple[int, ...]) -> Sequence[int]:
        """Return the bytes before each event, without what copies add."""
        return self._in_last if self._is_last(repeats) else self._bytes

    def added(self, repeats: tuple[int, ...]) -> int:
        """Return the bytes that copies have added."""
        return sum([growth * count for growth, count in zip(self.growth, repeats, strict=True)])

    def at(self, position: int, repeats: tuple[int, ...]) -> int:
        """Return the bytes at a position, after all frees there."""
        return self.without_copies(repeats)[position] + self.added(repeats) - self.freed.get(position, 0)

    def last_event(self, moment: PeakMoment) -> int:
        """Return the position after the last event before a moment.

        At the start of a copy, the event belongs to the copy before.
        """
        copies = zip(self._recording.windows, moment.repeats, strict=False)
        return next((window.end for window, before in copies if before and moment.event == window.start), moment.event)

    def alive(
        self, moment: PeakMoment, resident_tensors: Sequence[ResidentTensors], carried: StorageCounts | None
    ) -> LiveTensors:
        """Return the tensors alive at a moment, with resident tensors."""
        recording = self._recording
        left = carried
        if left is None and self._is_last(moment.repeats):
            kind_of_row = recording.storages.kinds.kind_of_row
            left = StorageCounts(
                recording.storages, {kind_of_row[row]: -1 for row in recording.retained_at(moment.event)}
            )
        at = Moment(event=moment.event, bytes=moment.bytes, repeats=moment.repeats)
        live = recording.alive(at, resident_tensors, left)
        if moment.missing is not None:
            counts = Counter(live.live_kinds.counts)
            counts.subtract(moment.missing.counts)
            live.live_kinds = LiveKinds(counts, {})
        return live
