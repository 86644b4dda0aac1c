"""The timeline of a step: the peak of each of its spans, layer by layer."""

from __future__ import annotations

from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred
from calculator.common.garbage import without_collections
from calculator.estimation.answer import Timeline, TimelineForm

if TYPE_CHECKING:
    from calculator.common.names import PhaseName
    from calculator.engine.memory_curve import MemoryCurve, Window
    from calculator.training_step.peak import MicroBatchRun, Peak
    from calculator.training_step.step import TrainingStep

#: The passes of `generate` whose peaks are shown.
PASSES = ("the prompts", "the second token", "the last token")

#: A span of the tape: its first and last event.
Span = tuple[int, int]

#: The phase and the operation of each moment.
Operations = tuple[tuple["PhaseName", str], ...]


def timeline(step: TrainingStep, peaks: tuple[Peak, ...]) -> Deferred[Timeline]:
    """Return every span in order, with every repeated layer.

    The passes of `generate` come first, the optimizer's step comes last.
    """
    return Deferred(partial(_cached_timeline, step, peaks))


@without_collections
def _cached_timeline(step: TrainingStep, peaks: tuple[Peak, ...]) -> Timeline:
    """Return the timeline, which is cached with the step.

    It does not refer to the step, so that the garbage collector need not break a cycle.
    """
    cached: Timeline | None = step.known.get(Timeline)
    if cached is None:
        cached = step.known[Timeline] = _layer_timeline(step, peaks)
    return cached


def _layer_timeline(step: TrainingStep, peaks: tuple[Peak, ...]) -> Timeline:
    whole = step.with_every_layer
    *generation, before, after, optimizer = step.with_generation(peaks) if whole is step else whole.every_peak()
    earlier, later = before.micro_batch or whole.last, after.micro_batch or whole.last
    is_bound = later.run.copies.bounds_first
    first = "embeddings" if "layer 0 backward" in later.marks and not is_bound else "layer 0"
    ahead, back = _spans(earlier, "forward", "backward"), _spans(later, "backward", "end")
    if whole.partitioned is not None:
        forward = whole.partitioned.line(ahead, backward=False)
        backward = whole.partitioned.line(back, backward=True)
    else:
        forward = _with_skipped_passes(_line(earlier.recording.curve, before.throughout, ahead), earlier, before, ahead)
        backward = whole.flat.line() if whole.flat is not None else []
    backward = backward or _line(later.recording.curve, after.throughout, back)
    if is_bound:
        backward[-2:] = [after.throughout + later.peak_of_first_layer]
    layers = whole.layers
    ends = ("embeddings", "head and loss"), ("loss and head", first)
    passes = [peak.throughout + size for peak in generation for size in step.generation_peaks[: len(PASSES)]]
    ahead_form = _form("forward", ends[0], range(layers), len(forward))
    back_form = _form("backward", ends[1], range(layers - 1, -1, -1), len(backward))
    form = _joined(len(passes), ahead_form, back_form, optimizer.operation)
    forward, backward = forward[: len(ahead_form)], backward[: len(back_form)]
    return Timeline(form, (*passes, *forward, *backward, optimizer.bytes))


def _spans(of: MicroBatchRun, phase: str, end: str) -> list[Span]:
    """Return the spans between consecutive marks. They are cached for runs with other sizes."""
    spans = of.run.copies.spans
    if phase not in spans:
        spans[phase] = _layer_spans(of.marks, phase, end)
    return spans[phase]


def _layer_spans(marks: dict[str, int], phase: str, end: str) -> list[Span]:
    inner = sorted(
        position for label, position in marks.items() if label.startswith("layer ") and label.endswith(phase)
    )
    cuts = [marks[phase], *inner, marks[end]]
    return list(pairwise(cuts))


def _line(curve: MemoryCurve, throughout: int, spans: list[Span]) -> list[int]:
    """Return the peak of each span."""
    window = curve.window_in(spans[0][0], spans[-1][1])
    repeated = [s for s in spans if window is not None and window.start <= s[0] and s[1] <= window.end]
    peaks: list[int] = []
    for span in spans:
        if span not in repeated or window is None:
            peaks.append(throughout + curve.peak_bytes(*span))
        elif span == repeated[0]:
            peaks += _copies(curve, repeated, window, throughout)
    return peaks


def _with_skipped_passes(line: list[int], of: MicroBatchRun, peak: Peak, spans: list[Span]) -> list[int]:
    """Return the peaks of the spans of a forward pass, with passes that are not interpreted.

    These run before the first layer and after the last one.
    """
    for place in (0, -1) if of.passes else ():
        line[place] = max(line[place], peak.throughout + of.most_skipped_bytes(*spans[place]))
    return line


def _copies(curve: MemoryCurve, repeated: list[Span], window: Window, throughout: int) -> list[int]:
    """Return the window's spans once for each copy.

    The live bytes grow by the window's growth from one copy to the next.
    """
    growth = curve.growth[curve.windows.index(window)]
    first = [throughout + curve.peak_of_copy(low, high, window, 0) for low, high in repeated]
    return [most + copy * growth for copy in range(window.copies + 1) for most in first]


@lru_cache(maxsize=64)
def _form(phase: PhaseName, ends: tuple[str, str], numbers: range, count: int) -> Operations:
    """Return the operations of the spans of a phase.

    The last one includes layers that no gradient reaches.
    """
    labels = (ends[0], *(f"layer {number}" for number in numbers[: count - 2]), ends[1])
    return tuple([(phase, label) for label in labels[:count]])


@lru_cache(maxsize=256)
def _joined(passes: int, forward: Operations, backward: Operations, last: str) -> TimelineForm:
    """Return the form of a timeline with some passes of `generate`. `last` is the optimizer's step."""
    generation: Operations = tuple([("generation", name) for name in PASSES[:passes]])
    return TimelineForm((*generation, *forward, *backward, ("optimizer_step", last)))
