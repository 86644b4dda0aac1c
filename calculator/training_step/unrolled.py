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

from calculator.engine.repetition import Repetition
from calculator.families import forward_of
from calculator.layers.context import NOT_RUN, Context
from calculator.training_step.causal_lm import micro_batch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.tape import Allocation, Tape
    from calculator.methods.prepared_model import PreparedModel

#: Periods of layers that are interpreted.
PERIODS = 4

#: What a pass's first matrix product makes: rotary angles or what the first layer makes, and the head's gradients.
_PRODUCTS = ("rotary: freqs", "matmul: gradient", "weight: gradient", "product: gradient")
_IN_A_LAYER = ".*."


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """One forward and backward pass: `n` for the birth of row `n`, `~n` for its end.

    Alive at the end are the `gradients`, and what is `left`: the batch, the loss, and what the loss's graph keeps.
    """

    rows: Sequence[Allocation]
    forward: Sequence[int]
    backward: Sequence[int]
    gradients: Sequence[int]
    left: Sequence[int]

    def first_product(self, events: Sequence[int]) -> int:
        """The place of the first matrix product in a pass."""
        named = ((at, self.rows[row][0]) for at, row in enumerate(events) if row >= 0)
        return next((at for at, name in named if name.endswith(_PRODUCTS) or _IN_A_LAYER in name), 0)


def events(prepared: PreparedModel, *, periods: int = PERIODS) -> Events:
    """Interpret a micro-batch and spell its layers out. With `periods` as many as there are, all are interpreted."""
    context = Context(prepared, forward_of(prepared.model))
    repetition = context.repetition
    period, more = repetition.end - repetition.start, repetition.copies + 2 - periods
    count = len(repetition.numbers) + repetition.copies * period
    last = repetition.end + (periods - 2) * period
    numbers = (*range(last), *range(last + more * period, count)) if more > 0 else tuple(range(count))
    standing = range(last - period, last) if more > 0 else range(0)
    context.repetition = Repetition(
        numbers=numbers, start=count, end=count, copies=0, repeated_positions=standing, repeats=max(0, more)
    )
    micro_batch(context)
    marks = {label: position for position, label in context.tape.marks}
    if more <= 0:
        told, middle = context.tape.events, marks["backward"]
        return _sorted(context.tape.rows, told[:middle], told[middle : marks["end"]])
    spelled = _Spelled(context.tape, marks, repetition, more)
    return _sorted(spelled.rows, spelled.forward(), spelled.backward())


def _sorted(rows: Sequence[Allocation], forward: list[int], backward: list[int]) -> Events:
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

    Rows of the second, third and fourth are numbered anew from `base` on, `stride` to a period, in an order that is the
    same for each: a row of the next period is `stride` further. Where nothing up to them is trained, no gradient
    `goes_back` through them.
    """

    __slots__ = ("base", "events", "goes_back", "lumps", "marks", "more", "places", "rows", "stride")

    def __init__(self, tape: Tape, marks: dict[str, int], repetition: Repetition, more: int) -> None:
        self.marks = marks
        self.more = more
        before, start, end = repetition.boundaries
        self.goes_back = f"layer {start} backward" in marks
        self.places = range(before, before + (PERIODS + 1) * (end - start), end - start)
        self.lumps = {row for row, born in enumerate(tape.rows) if born[0].endswith(NOT_RUN)}
        self.events = tape.events[: marks["end"]]
        periods = self._periods(tape.rows)
        self.base = len(tape.rows)
        self.stride = len(periods[1])
        numbers = list(range(self.base))
        for n, rows in enumerate(periods):
            for k, row in enumerate(rows):
                numbers[row] = self.base + n * self.stride + k
        self.events = [numbers[event] if event >= 0 else ~numbers[~event] for event in self.events]
        self.rows = [*tape.rows, *([tape.rows[row] for row in periods[1]] * (3 + more))]

    def _periods(self, rows: Sequence[Allocation]) -> list[list[int]]:
        """The rows of the second, third and fourth period: born in it, or freed in it and born outside all of them."""
        windows = [[*self.events[slice(*self._forward(n))], *self._backwards(n)] for n in (1, 2, 3)]
        births = [[event for event in window if event >= 0] for window in windows]
        born = {row for own in births for row in own}
        outer = [[~event for event in window if event < 0 and ~event not in born] for window in windows]
        kinds = {rows[row] for row in outer[1]}
        return [own + [row for row in freed if rows[row] in kinds] for own, freed in zip(births, outer, strict=True)]

    def forward(self) -> list[int]:
        """The forward pass: the middle period once for each that it stands for, in order."""
        start, end = self._forward(2)
        _, last = self._forward(3)
        middle = self.events[start:end]
        told = self._outside(0, start)
        for n in range(self.more + 1):
            told += self._moved(middle, self.base, n)
        told += self._moved(self.events[end:last], self.base + self.stride, self.more)
        return told + self._outside(last, self.marks["backward"])

    def backward(self) -> list[int]:
        """The backward pass: the same in reverse."""
        if not self.goes_back:
            return self._outside(self.marks["backward"], self.marks["end"])
        start, end = self._backward(2)
        first, _ = self._backward(3)
        _, last = self._backward(1)
        middle = self.events[start:end]
        told = self._outside(self.marks["backward"], first)
        told += self._moved(self.events[first:start], self.base + self.stride, self.more)
        for n in reversed(range(self.more + 1)):
            told += self._moved(middle, self.base, n)
        return told + self.events[end:last] + self._outside(last, self.marks["end"])

    def _outside(self, start: int, end: int) -> list[int]:
        """Events between the layers' windows: what is done with a row of the middle period is done with its copies'."""
        told: list[int] = []
        own = range(self.base + self.stride, self.base + 2 * self.stride)
        events = [event for event in self.events[start:end] if max(event, ~event) not in self.lumps]
        for of_middle, run in groupby(events, lambda event: max(event, ~event) in own):
            rows = list(run)
            if not of_middle:
                told += self._moved(rows, self.base + 2 * self.stride, self.more)
                continue
            (after_last,) = self._moved(rows[:1], self.base, self.more + 1)
            periods = range(self.more + 1)
            for n in reversed(periods) if after_last in told else periods:
                told += self._moved(rows, self.base, n)
        return told

    def _moved(self, events: list[int], lowest: int, periods: int) -> list[int]:
        """Events as they are so many periods later; rows below the lowest stay."""
        by = periods * self.stride
        return [e + by if e >= lowest else e - by if ~e >= lowest else e for e in events]

    def _forward(self, n: int) -> tuple[int, int]:
        return self._between(n, n + 1, "forward")

    def _backward(self, n: int) -> tuple[int, int]:
        return self._between(n + 1, n, "backward")

    def _backwards(self, n: int) -> list[int]:
        return self.events[slice(*self._backward(n))] if self.goes_back else []

    def _between(self, n: int, m: int, phase: str) -> tuple[int, int]:
        return self.marks[f"layer {self.places[n]} {phase}"], self.marks[f"layer {self.places[m]} {phase}"]
