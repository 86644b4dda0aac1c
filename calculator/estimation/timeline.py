"""The timeline of a step: the peak of each of its spans, layer by layer."""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred
from calculator.estimation.answer import Moment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.common.names import PhaseName
    from calculator.engine.memory_curve import MemoryCurve, Window
    from calculator.training_step.peak import Peak
    from calculator.training_step.step import TrainingStep

#: The passes of `generate` whose peaks are shown.
PASSES = ("the prompts", "the second token", "the last token")

#: A span of the tape: its first and last event.
Span = tuple[int, int]


def timeline(step: TrainingStep, peaks: tuple[Peak, ...]) -> Deferred[tuple[Moment, ...]]:
    """Every span in order, with every repeated layer: passes of `generate` first, the optimizer's step last."""
    return Deferred(partial(_of_layers, step, peaks))


def _of_layers(step: TrainingStep, peaks: tuple[Peak, ...]) -> tuple[Moment, ...]:
    whole = step.whole
    *generation, before, after, optimizer = peaks if whole is step else whole.every_peak()
    last, layers = (optimizer.operation, optimizer.bytes), whole.layers
    earlier, later = before.micro_batch or whole.last, after.micro_batch or whole.last
    first = "embeddings" if "layer 0 backward" in later.marks else "layer 0"
    ahead, back = _spans(earlier.marks, "forward", "backward"), _spans(later.marks, "backward", "end")
    if whole.partitioned is not None:
        forward = whole.partitioned.line(ahead, backward=False)
        backward = whole.partitioned.line(back, backward=True)
    else:
        forward = _line(earlier.recording.curve, before.throughout, ahead)
        backward = whole.flat.line() if whole.flat is not None else []
    backward = backward or _line(later.recording.curve, after.throughout, back)
    return (
        *_of_generation(step, *generation),
        *_moments("forward", forward, ("embeddings", "head and loss"), range(layers)),
        *_moments("backward", backward, ("loss and head", first), range(layers - 1, -1, -1)),
        Moment(phase="optimizer_step", operation=last[0], bytes=last[1]),
    )


def _of_generation(step: TrainingStep, peak: Peak | None = None) -> Iterator[Moment]:
    """The passes of `generate`."""
    for name, each in zip(PASSES, step.generation, strict=False):
        assert peak is not None
        yield Moment(phase="generation", operation=name, bytes=peak.throughout + each.moment.bytes)


def _spans(marks: dict[str, int], phase: str, end: str) -> list[Span]:
    """The spans between consecutive marks."""
    inner = sorted(
        position for label, position in marks.items() if label.startswith("layer ") and label.endswith(phase)
    )
    cuts = [marks[phase], *inner, marks[end]]
    return list(pairwise(cuts))


def _line(curve: MemoryCurve, throughout: int, spans: list[Span]) -> list[int]:
    """The peak of each span."""
    window = curve.window_in(spans[0][0], spans[-1][1])
    repeated = [s for s in spans if window is not None and window.start <= s[0] and s[1] <= window.end]
    peaks: list[int] = []
    for span in spans:
        if span not in repeated or window is None:
            peaks.append(throughout + curve.peak_bytes(*span))
        elif span == repeated[0]:
            peaks += _copies(curve, repeated, window, throughout)
    return peaks


def _copies(curve: MemoryCurve, repeated: list[Span], window: Window, throughout: int) -> list[int]:
    """The window's spans once for each copy; each copy has the window's growth more alive than the one before."""
    growth = curve.growth[curve.windows.index(window)]
    first = [throughout + curve.peak_of_copy(low, high, window, 0) for low, high in repeated]
    return [most + copy * growth for copy in range(window.copies + 1) for most in first]


def _moments(phase: PhaseName, line: list[int], ends: tuple[str, str], numbers: range) -> list[Moment]:
    """The spans with labels: layers have their numbers. The last one includes layers that no gradient reaches."""
    labels = _labels(ends, numbers[: len(line) - 2])
    return [Moment(phase=phase, operation=label, bytes=most) for label, most in zip(labels, line, strict=False)]


@lru_cache(maxsize=64)
def _labels(ends: tuple[str, str], numbers: range) -> tuple[str, ...]:
    return (ends[0], *(f"layer {number}" for number in numbers), ends[1])
