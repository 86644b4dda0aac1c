"""The tape of a micro-batch with every layer, for steps of which every position is replayed.

Four periods of layers are interpreted, and the third is repeated with the rows of each period (see `unrolled`). The
tape is the same as if every layer were interpreted, except for the numbers of views. They differ from each other too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.autograd import GRADIENT_OF, IN_LAYER
from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.loops import expanded
from calculator.engine.module_calls import PINNED, UNPINNED
from calculator.engine.repetition import Repetition
from calculator.engine.tape import Tape
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.model_passes import fills_cache
from calculator.training_step.periods import PERIODS, Periods, shifted
from calculator.training_step.training_context import training_context
from calculator.training_step.unrolled import interpret_periods

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel


@without_frame_snapshots
def whole_tape(prepared: PreparedModel) -> tuple[Tape, Repetition]:
    """Return the tape of a micro-batch with every layer, and a repetition that repeats nothing."""
    context = training_context(prepared)
    shortened = context.repetition
    count = len(shortened.numbers) + shortened.copies * (shortened.end - shortened.start)
    repetition = Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)
    return _repeat_third_period(prepared) or _interpreted(prepared, repetition), repetition


def _interpreted(prepared: PreparedModel, repetition: Repetition) -> Tape:
    """Interpret every layer."""
    context = training_context(prepared)
    context.unrolls, context.repetition = True, repetition
    context.tape.folds_loops = True
    micro_batch(context)
    tape = expanded(context.tape)
    context.drop_graph()
    return tape


def _repeat_third_period(prepared: PreparedModel) -> Tape | None:
    """Interpret four periods, and repeat the third.

    Return None if the model has no more, or if layers run under no_grad or get no gradient.
    """
    context = training_context(prepared)
    repetition = context.repetition
    if repetition.copies + 2 <= PERIODS or fills_cache(prepared):
        return None
    more = interpret_periods(context, PERIODS)
    tape = expanded(context.tape)
    context.drop_graph()
    marks = {label: position for position, label in tape.marks}
    periods = Periods(tape, marks, repetition, more, ())
    if context.passes or not periods.has_backward or not periods.is_regular:
        return None
    return _Repeated(tape, periods, more).tape()


class _Part(NamedTuple):
    """A part of a micro-batch.

    Attributes:
        first, last: The index of its first mark, and that of the first mark after it.
        layers: By how much the numbers of marked layers are higher.
        gradients: By how much the numbers of the layers are higher whose gradients are marked.
        rows: The first row from which on rows are higher, and by how much. None outside of periods.
        periods: By how much the numbers of periods are higher, which views belong to.
    """

    first: int
    last: int
    layers: int = 0
    gradients: int = 0
    rows: tuple[int, int] | None = None
    periods: int = 0


class _Repeated:
    """A tape of four periods, with the third one repeated for each period that it represents."""

    def __init__(self, tape: Tape, periods: Periods, more: int) -> None:
        self._tape, self._periods, self._more = tape, periods, more
        #: The index of each mark, by its label.
        self._index = {label: number for number, (_, label) in enumerate(tape.marks)}
        #: The views that the last three of the periods create, and those by their numbers.
        self._views = [self._views_of(number) for number in (1, 2, 3)]
        self._view_places = {
            view: (at, number) for number, views in enumerate(self._views) for at, view in enumerate(views)
        }
        self._events: list[int] = []
        self._marks: list[tuple[int, str]] = []

    def tape(self) -> Tape | None:
        """Return the tape. None if the order of events outside of the periods is not certain, or views differ."""
        if len({*map(len, self._views)}) > 1:
            return None
        for part in self._parts():
            if part.rows is None and not self._is_certain(part):
                return None
            self._add(part, *(part.rows or (0, 0)))
        self._marks.append((len(self._events), "end"))
        whole = Tape()
        whole.marks, whole.products = self._marks, self._tape.products
        numbers: dict[int, int] = {}
        for event in self._events:
            if event >= 0:
                numbers[event] = len(whole.rows)
                whole.rows.append(self._periods.rows[event])
            whole.events.append(numbers[event] if event >= 0 else ~numbers[~event])
        return whole

    def _parts(self) -> Iterator[_Part]:
        """Yield the parts in order."""
        more, base, stride, boundaries = self._more, self._periods.base, self._periods.stride, self._periods.boundaries
        period = boundaries.step
        third, fourth, after = (self._index[f"layer {boundaries[number]} forward"] for number in (2, 3, 4))
        backward, end = self._index["backward"], self._index["end"]
        yield _Part(0, third)
        for copy in range(more + 1):
            yield _Part(third, fourth, copy * period, copy * period, (base, copy * stride), copy)
        yield _Part(fourth, after, more * period, 0, (base + stride, more * stride), more)
        yield _Part(after, backward, more * period, periods=more)
        fourth_backward, third_backward, second_backward, rest = (
            self._index[f"layer {boundaries[number]} backward"] for number in (4, 3, 2, 1)
        )
        yield _Part(backward, fourth_backward, more * period, periods=more)
        yield _Part(fourth_backward, third_backward, more * period, 0, (base + stride, more * stride), more)
        for copy in reversed(range(more + 1)):
            yield _Part(third_backward, second_backward, copy * period, copy * period, (base, copy * stride), copy)
        yield _Part(second_backward, rest, 0, 0, (base, 0))
        yield _Part(rest, end)

    def _add(self, part: _Part, lowest: int, by: int) -> None:
        marks, periods, events = self._tape.marks, self._periods, list[int]()
        at, begin = marks[part.first][0] if part.first else 0, len(self._events)
        for number in range(part.first, part.last + 1):
            position, label = marks[number]
            if position > at and part.rows is None:
                periods.outside(at, position, events)
            elif position > at:
                events += shifted(periods.events[at:position], lowest, by)
            at = position
            if number < part.last:
                self._marks.append((begin + len(events), self._in_copy(label, part)))
        self._events += events

    def _is_certain(self, part: _Part) -> bool:
        """Return whether rows that every period has are only freed in a part, with no mark between two of them."""
        periods, marks = self._periods, self._tape.marks
        repeated = range(periods.base + periods.stride, periods.base + 2 * periods.stride)
        start, end = marks[part.first][0] if part.first else 0, marks[part.last][0]
        events = periods.events[start:end]
        if any(event in repeated for event in events):
            return False
        freed = [~event in repeated for event in events]
        return not any(
            freed[position - start - 1] and freed[position - start]
            for position, _ in marks[part.first : part.last]
            if start < position < end
        )

    def _views_of(self, number: int) -> list[str]:
        """Return the numbers of the views that a period creates, in its forward and in its backward pass."""
        boundaries, index, views = self._periods.boundaries, self._index, list[str]()
        for first, last, passed in ((number, number + 1, "forward"), (number + 1, number, "backward")):
            start, end = (index[f"layer {boundaries[at]} {passed}"] for at in (first, last))
            labels = (label for _, label in self._tape.marks[start:end])
            views += [label.split()[1] for label in labels if label.startswith(PINNED)]
        return views

    def _in_copy(self, label: str, part: _Part) -> str:
        """Return the label of a mark with the numbers of its layers and of its view in a part."""
        if part.layers and label.startswith("layer "):
            word, number, rest = label.split(" ", 2)
            return f"{word} {int(number) + part.layers} {rest}"
        if part.gradients and label.startswith(GRADIENT_OF):
            name, in_layer, number = label.rpartition(IN_LAYER)
            return f"{name}{in_layer}{int(number) + part.gradients}" if in_layer else label
        if label.startswith((PINNED, UNPINNED)):
            kind, view, name = label.split(" ", 2)
            if view in self._view_places:
                at, period = self._view_places[view]
                return f"{kind} {self._view(at, period + part.periods)} {name}"
        return label

    def _view(self, at: int, period: int) -> str:
        """Return the number of a view of a period, counted from the second one."""
        last = len(self._views) - 1
        if period < last:
            return self._views[period][at]
        return self._views[last][at] if period == last + self._more else f"{self._views[last - 1][at]}.{period}"
