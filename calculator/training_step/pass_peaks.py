"""The peaks of skipped passes of a run (see `derived_passes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.skipped_passes import DIFFERS, SKIPPED, TRAINED, TRAINED_END
from calculator.training_step import skipped_passes
from calculator.training_step.derived_passes import TrainedPass

if TYPE_CHECKING:
    from collections.abc import Mapping

    from calculator.engine.recording import Recording
    from calculator.engine.skipped_passes import DerivedLayer, SkippedRecord
    from calculator.training_step.run import Run

    #: The positions of skipped passes, and the most bytes of the step that are alive in each.
    PassPeaks = tuple[tuple[int, int], ...]


def peaks(run: Run, recording: Recording, left: SkippedRecord, *, each_is_needed: bool) -> PassPeaks | None:
    """Return the peaks of skipped passes. They may be missing if they are not higher than the recording's.

    Return None if they are not certain. `each_is_needed`: whether none may be missing.
    """
    marks = recording.copies.marks
    if left.layer is None:
        return () if not each_is_needed and skipped_passes.is_determined(recording) else None
    pass_peaks: Mapping[str | None, int | None] = {}
    if DIFFERS not in marks:
        pass_peaks = left.pass_peaks or _pass_peaks(run, recording, left, left.layer)
    peaks_by_event: list[tuple[int, int]] = []
    for prefix, compared in left.passes:
        at, size = marks[f"{prefix}{SKIPPED}"], pass_peaks.get(compared)
        if size is not None:
            peaks_by_event.append((at, recording.curve.before(at) + size))
        elif each_is_needed or (at < marks[TRAINED] and not skipped_passes.is_determined(recording)):
            return None
    return tuple(peaks_by_event)


def _pass_peaks(
    run: Run, recording: Recording, left: SkippedRecord, layer: DerivedLayer
) -> dict[str | None, int | None]:
    """Return the peaks of passes by reference, without the bytes alive before them, for sizes that were symbolic."""
    marks, sizes = recording.copies.marks, recording.storages.sizes_of_rows
    start, end = marks[TRAINED], marks[TRAINED_END]
    trained = TrainedPass(
        recording.copies.lifetimes.events[start:end],
        sizes,
        run.added,
        marks["layer 0 forward"] - start,
        marks["layer 1 forward"] - start,
        sizes[layer.input_row] if run.repetition.copies else 0,
    )
    return trained.pass_peaks(layer, {reference for _, reference in left.passes})
