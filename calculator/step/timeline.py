"""The step as a line: the most that is alive in each of its stretches, layer by layer."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from calculator.answer import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.answer import PhaseName
    from calculator.step.recording import Recording, Window
    from calculator.step.training_step import Peak, TrainingStep

#: A stretch of the tape: its first and last event, and whether it is a layer.
Stretch = tuple[int, int, bool]


def timeline(step: TrainingStep, peaks: tuple[Peak, Peak, Peak]) -> tuple[Moment, ...]:
    """Every stretch in order, repeated layers counted out; the optimizer's step is the last."""
    forward, backward, optimizer = peaks
    recording, layers = step.recording, step.layers
    marks = {label: position for position, label in step.context.tape.marks}
    first = "embeddings" if "layer 0 backward" in marks else "layer 0"
    ahead = _moments(recording, forward, _stretches(marks, "forward", "backward"), ("embeddings", "head and loss"))
    back = _moments(recording, backward, _stretches(marks, "backward", "end"), ("loss and head", first))
    return (
        *_numbered(ahead, range(layers)),
        *_numbered(back, range(layers - 1, -1, -1)),
        Moment(phase="optimizer_step", operation=optimizer.operation, bytes=optimizer.bytes),
    )


def _stretches(marks: dict[str, int], phase: str, end: str) -> list[Stretch]:
    """From one mark to the next; what lies between two layers' marks is a layer."""
    inner = sorted(
        position for label, position in marks.items() if label.startswith("layer ") and label.endswith(phase)
    )
    cuts = [marks[phase], *inner, marks[end]]
    last = len(cuts) - 2
    return [(low, high, 0 < place < last) for place, (low, high) in enumerate(pairwise(cuts))]


def _moments(recording: Recording, peak: Peak, stretches: list[Stretch], ends: tuple[str, str]) -> Iterator[Moment]:
    phase = peak.phase
    constant = peak.bytes - recording.peak(stretches[0][0], stretches[-1][1]).bytes
    window = recording.window_in(stretches[0][0], stretches[-1][1])
    repeated = [s for s in stretches if window is not None and window.start <= s[0] and s[1] <= window.end]
    for place, stretch in enumerate(stretches):
        if window is not None and stretch in repeated:
            if stretch == repeated[0]:
                yield from _copies(recording, phase, repeated, window, constant)
            continue
        name = "layer" if stretch[2] else ends[0 if place == 0 else 1]
        yield Moment(phase=phase, operation=name, bytes=constant + recording.peak(*stretch[:2]).bytes)


def _copies(
    recording: Recording, phase: PhaseName, repeated: list[Stretch], window: Window, constant: int
) -> Iterator[Moment]:
    """The window's stretches once for each copy: each lies by the window's growth above the one before."""
    growth = recording.growth[recording.windows.index(window)]
    first = [constant + recording.highest(low, high, window, 0) for low, high, _ in repeated]
    for copy in range(window.copies + 1):
        for most in first:
            yield Moment(phase=phase, operation="layer", bytes=most + copy * growth)


def _numbered(line: Iterator[Moment], numbers: range) -> Iterator[Moment]:
    upcoming = iter(numbers)
    for moment in line:
        if moment.operation == "layer":
            yield Moment(phase=moment.phase, operation=f"layer {next(upcoming)}", bytes=moment.bytes)
        else:
            yield moment
