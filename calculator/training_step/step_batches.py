"""The micro-batches of a step, each with its layers unrolled, and the gradients that they share."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from calculator.training_step.periods import Window, shifted
from calculator.training_step.replayed_step import unrolled_step
from calculator.training_step.unrolled import Events, Unrolled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from calculator.training_step.resident_state import ResidentState

#: The number of micro-batches that are replayed after the first one. Further ones find the allocator in the same state.
LATER_MICRO_BATCHES = 2

MicroBatch = TypeVar("MicroBatch", bound=Events | Unrolled)


class StepBatches(NamedTuple, Generic[MicroBatch]):
    """The micro-batches that a step's replay runs, in order.

    Attributes:
        first: The first one, or the whole step under ZeRO, whose gathers and reductions go on between micro-batches.
        later: A micro-batch that adds to the gradients of the first. None if none is replayed.
        repeats: How often `later` is replayed.
        last: The last micro-batch, which reduces the gradients of the first. None if it is like those before it.
        taken: Pairs of a row of `last` and a row of `first` that are the same gradient.
    """

    first: MicroBatch
    later: MicroBatch | None = None
    repeats: int = 0
    last: MicroBatch | None = None
    taken: Sequence[tuple[int, int]] = ()


def step_batches(resident: ResidentState, unrolled: Callable[..., Unrolled] | None = None) -> StepBatches[Unrolled]:
    """Return the micro-batches of a run's step.

    `unrolled` interprets a micro-batch without a cache.
    """
    if resident.flat is not None or resident.partitioned is not None:
        return StepBatches(resident.unrolled.for_step(resident.prepared, lambda: unrolled_step(resident)))
    prepared, unrolled = resident.prepared, unrolled or resident.unrolled.micro_batch
    steps = prepared.training.gradient_accumulation_steps
    if not resident.differs_before_last:
        first = unrolled(prepared.first_micro_batch)
        if prepared.training == prepared.training.first_micro_batch:
            return StepBatches(first)
        return StepBatches(first, unrolled(prepared), min(steps - 1, LATER_MICRO_BATCHES))
    first, last = unrolled(prepared.first_micro_batch, reduces=False), unrolled(prepared)
    repeats = min(steps - 2, LATER_MICRO_BATCHES)
    later = unrolled(prepared, reduces=False) if repeats else None
    whole, windows, known = _with_given_gradients(last)
    taking = replace(last, forward=windows, takes=True, known=known)
    own, allocated = (
        [(row, batch.rows[row][0]) for row in rows] for batch, rows in ((last, whole), (first, _gradients(first)))
    )
    return StepBatches(first, later, repeats, taking, [*same_gradients(own, allocated)])


def same_gradients(own: Iterable[tuple[int, str]], allocated: Iterable[tuple[int, str]]) -> Iterator[tuple[int, int]]:
    """Pair the rows of gradients in the last micro-batch with those in the first one, which allocated them, by name.

    Gradients of one name are in the order of the layers in the forward pass of the last micro-batch. They are in
    reverse order in the backward pass of the first.
    """
    rows_by_name: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in allocated:
        rows_by_name[name].append(row)
    for row, name in own:
        yield row, rows_by_name[name].pop()


def _gradients(first: Unrolled) -> Sequence[int]:
    if "gradients" not in first.known:
        first.known["gradients"] = first.events().gradients
    gradients: Sequence[int] = first.known["gradients"]
    return gradients


def _with_given_gradients(last: Unrolled) -> tuple[list[int], list[Window], dict[object, object]]:
    """Return the rows of whole gradients, the forward windows without these rows, and a cache for these windows."""
    if "taking" not in last.known:
        events = [event for window in last.forward for by in window.shifts for event in _shifted(window, by)]
        whole = [event for event in events if event >= 0 and last.rows[event][3] == "gradients"]
        last.known["taking"] = whole, [_without_rows({*whole}, window) for window in last.forward], {}
    taking: tuple[list[int], list[Window], dict[object, object]] = last.known["taking"]
    return taking


def _shifted(window: Window, by: int) -> Sequence[int]:
    return shifted(window.events, window.lowest, by)


def _without_rows(rows: set[int], window: Window) -> Window:
    """Return a window without the allocations of some rows, which include all of its repetitions."""
    own = _shifted(window, window.shifts[0])
    events = [event for event, row in zip(window.events, own, strict=True) if row not in rows]
    return Window(events, window.lowest, window.shifts)
