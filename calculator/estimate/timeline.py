"""The step as a line: the most that is alive in each of its stretches, layer by layer."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred
from calculator.estimate.answer import Moment

if TYPE_CHECKING:
    from calculator.common.names import PhaseName
    from calculator.engine.memory_curve import MemoryCurve, Window
    from calculator.training_step.step import Peak, TrainingStep

#: A stretch of the tape: its first and last event.
Stretch = tuple[int, int]


def timeline(step: TrainingStep, peaks: tuple[Peak, Peak, Peak]) -> Deferred[tuple[Moment, ...]]:
    """Every stretch in order, repeated layers counted out; the optimizer's step is the last."""
    forward, backward, optimizer = peaks
    throughout = (forward.throughout, backward.throughout)
    last = (optimizer.operation, optimizer.bytes)
    return Deferred(partial(_of_layers, step, throughout, last))


def _of_layers(step: TrainingStep, throughout: tuple[int, int], last: tuple[str, int]) -> tuple[Moment, ...]:
    whole = step.whole
    return _told(whole.recording.curve, whole.marks, whole.layers, throughout, last)


def _told(
    curve: MemoryCurve, marks: dict[str, int], layers: int, throughout: tuple[int, int], last: tuple[str, int]
) -> tuple[Moment, ...]:
    first = "embeddings" if "layer 0 backward" in marks else "layer 0"
    ahead = _line(curve, throughout[0], _stretches(marks, "forward", "backward"))
    back = _line(curve, throughout[1], _stretches(marks, "backward", "end"))
    return (
        *_moments("forward", ahead, ("embeddings", "head and loss"), range(layers)),
        *_moments("backward", back, ("loss and head", first), range(layers - 1, -1, -1)),
        Moment(phase="optimizer_step", operation=last[0], bytes=last[1]),
    )


def _stretches(marks: dict[str, int], phase: str, end: str) -> list[Stretch]:
    """From one mark to the next."""
    inner = sorted(
        position for label, position in marks.items() if label.startswith("layer ") and label.endswith(phase)
    )
    cuts = [marks[phase], *inner, marks[end]]
    return list(pairwise(cuts))


def _line(curve: MemoryCurve, throughout: int, stretches: list[Stretch]) -> list[int]:
    """The most bytes in each stretch."""
    window = curve.window_in(stretches[0][0], stretches[-1][1])
    repeated = [s for s in stretches if window is not None and window.start <= s[0] and s[1] <= window.end]
    line: list[int] = []
    for stretch in stretches:
        if stretch not in repeated or window is None:
            line.append(throughout + curve.peak(*stretch).bytes)
        elif stretch == repeated[0]:
            line += _copies(curve, repeated, window, throughout)
    return line


def _copies(curve: MemoryCurve, repeated: list[Stretch], window: Window, throughout: int) -> list[int]:
    """The window's stretches once for each copy: each lies by the window's growth above the one before."""
    growth = curve.growth[curve.windows.index(window)]
    first = [throughout + curve.peak_of_copy(low, high, window, 0) for low, high in repeated]
    return [most + copy * growth for copy in range(window.copies + 1) for most in first]


def _moments(phase: PhaseName, line: list[int], ends: tuple[str, str], numbers: range) -> list[Moment]:
    """The stretches named: layers by their numbers; in the last are layers that no gradient reaches."""
    labels = [ends[0], *(f"layer {number}" for number in numbers[: len(line) - 2]), ends[1]]
    return [Moment(phase=phase, operation=label, bytes=most) for label, most in zip(labels, line, strict=False)]
