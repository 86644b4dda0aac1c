"""A micro-batch's events with every layer spelled out, as the caching allocator sees them.

Four periods of layers are interpreted (see `repetition`), and the third stands for those between it and the last: it
is the first with its own kind on either side. What it frees of its neighbours' rows, each of the others frees of its
own neighbours', so its events are told again with the rows of period after period: forwards in order, backwards in
reverse.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from calculator.step.causal_lm import micro_batch
from calculator.step.context import Context
from calculator.step.repetition import Repetition

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.methods import Method
    from calculator.model import Model
    from calculator.step.tape import Born, Tape
    from calculator.training import Training

#: Periods of layers that are interpreted.
PERIODS = 4

_PRODUCTS = (": output", ": product", "matmul: gradient", "weight: gradient", "product: gradient")


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """One forward and backward pass: `n` for the birth of row `n`, `~n` for its end.

    Alive at the end are the `gradients`, and what is `left`: the batch, the loss, and what the loss's graph keeps.
    """

    rows: Sequence[Born]
    forward: Sequence[int]
    backward: Sequence[int]
    gradients: Sequence[int]
    left: Sequence[int]

    def first_product(self, events: Sequence[int]) -> int:
        """The place of the first matrix product in a pass."""
        rows = self.rows
        return next((at for at, row in enumerate(events) if row >= 0 and rows[row][0].endswith(_PRODUCTS)), 0)


def events(model: Model, method: Method, training: Training, *, periods: int = PERIODS) -> Events:
    """Interpret a micro-batch and spell its layers out. With `periods` as many as there are, all are interpreted."""
    context = Context(model, method, training)
    repetition = context.repetition
    period, more = repetition.end - repetition.start, repetition.copies + 2 - periods
    count = len(repetition.numbers) + repetition.copies * period
    last = repetition.end + (periods - 2) * period
    numbers = (*range(last), *range(last + more * period, count)) if more > 0 else tuple(range(count))
    context.repetition = Repetition(numbers=numbers, start=count, end=count, copies=0)
    micro_batch(context)
    marks = {label: position for position, label in context.tape.marks}
    if more <= 0 or f"layer {repetition.start} backward" not in marks:
        told, middle = context.tape.events, marks["backward"]
        return _sorted(context.tape.rows, told[:middle], told[middle : marks["end"]])
    spelled = _Spelled(context.tape, marks, [repetition.start + period * n for n in range(PERIODS)], more)
    return _sorted(spelled.rows, spelled.forward(), spelled.backward())


def _sorted(rows: Sequence[Born], forward: list[int], backward: list[int]) -> Events:
    alive = dict.fromkeys(forward)
    alive.update(dict.fromkeys(backward))
    kept = [row for row in alive if row >= 0 and ~row not in alive]
    return Events(
        rows=rows,
        forward=forward,
        backward=backward,
        gradients=[row for row in kept if rows[row][3] == "gradients"],
        left=[row for row in kept if rows[row][3] != "gradients"],
    )


class _Spelled:
    """The events of four periods, of which the third stands for `more` after it.

    Rows of the second period on are numbered anew: `stride` numbers a period, in the order of their births.
    """

    __slots__ = ("base", "events", "marks", "more", "rows", "starts", "stride")

    def __init__(self, tape: Tape, marks: dict[str, int], starts: list[int], more: int) -> None:
        self.marks = marks
        self.starts = starts
        self.more = more
        births = [self._births(tape.events, n) for n in (1, 2, 3)]
        self.base = len(tape.rows)
        self.stride = len(births[1])
        numbers = list(range(self.base))
        for n, rows in enumerate(births):
            for k, row in enumerate(rows):
                numbers[row] = self.base + n * self.stride + k
        self.events = [numbers[event] if event >= 0 else ~numbers[~event] for event in tape.events]
        self.rows = [*tape.rows, *([tape.rows[row] for row in births[1]] * (3 + more))]
