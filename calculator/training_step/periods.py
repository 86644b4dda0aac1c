"""The windows of a pass: events that are repeated with the rows of each period of layers.

Four periods are interpreted. The third is the first one with equal periods on both sides. Its events are repeated with
the rows of each period: in order in the forward pass, in reverse in the backward pass. Often three are enough (see
`equal_periods`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import compress, groupby
from operator import invert, itemgetter
from typing import TYPE_CHECKING, ClassVar

from calculator.engine.repetition import NOT_RUN
from calculator.training_step.repeated_layers import Repeated

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Sequence

    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Allocation, Tape

#: The number of periods that are interpreted.
PERIODS = 4
#: Stands for a row that a period does not have.
NONE = -1


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a pass that is repeated with the rows of each period.

    Every repetition has the same `events`. Each adds its own shift to the rows from `lowest` on.
    """

    events: Sequence[int]
    lowest: int
    shifts: Sequence[int]


def shifted(events: Sequence[int], lowest: int, by: int) -> Sequence[int]:
    """Return the events with `by` added to the rows from `lowest` on."""
    if not by or max(events, default=0) < lowest > ~min(events, default=0):
        return events
    return [e + by if e >= lowest else e - by if ~e >= lowest else e for e in events]


def parts(repeated: Sequence[Repeated], start: int, end: int) -> Iterator[Repeated]:
    """Divide the positions from `start` to `end` into parts that are repeated and parts that are not."""
    for part in repeated:
        if start <= part.start < end:
            yield Repeated(start, part.start, 1)
            yield part
            start = part.end
    yield Repeated(start, end, 1)


def after_product(events: Sequence[int], rows: Sequence[Allocation], products: Collection[str]) -> int | None:
    """Return the position after the allocation of the first matrix product's result among events, or None.

    There, the product's thread allocates its workspace. `products` are the names of such results.
    Source: aten/src/ATen/native/cuda/Blas.cpp, addmm_out_cuda_impl; aten/src/ATen/cuda/CublasHandlePool.cpp.
    """
    return next((at for at, row in enumerate(events, 1) if row >= 0 and rows[row][0] in products), None)


def once(events: Sequence[int], lowest: int = 0) -> Window:
    """Return a window of events that occur once."""
    return Window(events, lowest, (0,))


def _rows_of_kinds(own: list[int], like: list[int], rows: Sequence[Allocation]) -> list[int]:
    """Return the rows of a period that another period has too, by kind.

    The last period may have more rows of a kind. If the gradient that enters it is a view, its first sum is a new
    tensor.
    """
    if len(own) == len(like):
        return own
    left = Counter(rows[row] for row in like)
    kept = []
    for row in reversed(own):
        if left[rows[row]]:
            left[rows[row]] -= 1
            kept.append(row)
    return kept[::-1]


def passing(passes: Iterable[list[int]]) -> set[int]:
    """Return the events of the rows that a pass both allocates and frees."""
    events_inside = set[int]()
    for events in passes:
        own = set(events)
        events_inside |= own.intersection(map(invert, own))
    return events_inside


class Periods:
    """The events of four periods, the third of which represents `more` periods after it.

    The rows of the second, third and fourth period are renumbered from `base` on, in the same order for each. The same
    row of the next period has a number that is `stride` higher. Rows that a period frees in the pass that allocates
    them are not renumbered. Every repetition of the period uses them again.
    """

    __slots__ = (
        "base",
        "boundaries",
        "copies",
        "events",
        "freed_by_first",
        "has_backward",
        "is_regular",
        "marks",
        "middle",
        "more",
        "products",
        "repeated",
        "rows",
        "skipped",
        "stride",
    )

    interpreted: ClassVar[int] = PERIODS

    def __init__(
        self, tape: Tape, marks: dict[str, int], repetition: Repetition, more: int, repeated: Sequence[Repeated]
    ) -> None:
        self.marks = marks
        self.more = more
        #: The names of the results of matrix products.
        self.products = tape.products
        #: The repeated events of no-grad passes.
        self.repeated = repeated
        before, start, end = repetition.boundaries
        #: Whether gradients flow through these periods. They do not if nothing before or in them is trained.
        self.has_backward = f"layer {start} backward" in marks
        #: The layers at which the periods start, and the one at which the last period ends.
        self.boundaries = range(before, before + (self.interpreted + 1) * (end - start), end - start)
        names = {name for name in {*map(itemgetter(0), tape.rows)} if name.endswith(NOT_RUN)}
        skipped = [row for row, kind in enumerate(tape.rows) if kind[0] in names] if names else []
        #: The events of rows that stand for layers that are not interpreted. Here every layer has its own rows.
        self.skipped = {*skipped, *(~row for row in skipped)}
        self.events = tape.events[: marks["end"]]
        #: The rows of the repeated period that the first period frees.
        self.freed_by_first: Collection[int] = ()
        partners = self._partners(tape.rows)
        #: Whether the periods are as they have to be.
        self.is_regular = partners is not None
        self.base = len(tape.rows)
        periods = partners or [[], [], []]
        self.stride = len(periods[1])
        #: How many periods with rows of their own there are in addition to these.
        self.copies = self.more + len(periods) - 3
        numbers = list(range(self.base))
        for n, rows in enumerate(periods):
            for k, row in enumerate(rows, self.base + n * self.stride):
                if row != NONE:
                    numbers[row] = k
        #: The events of the repeated period's rows, except those of rows that only the first period frees.
        own = [row for row, of in enumerate(periods[1], self.base + self.stride) if of not in self.freed_by_first]
        self.middle = {*own, *map(invert, own)}
        # Each row has two numbers here, so that its events `n` and `~n` are valid indices.
        numbers += [*map(invert, reversed(numbers))]
        self.events = [*map(numbers.__getitem__, self.events)]
        self.rows = [*tape.rows, *([tape.rows[row] for row in periods[1]] * (3 + self.copies))]

    def _partners(self, rows: Sequence[Allocation]) -> list[list[int]] | None:
        """Return the rows of the second, third and fourth period: those that it allocates, and others that it frees.

        The latter are allocated outside all three periods, and the third period frees a row of the same kind. Rows that
        all three free in the pass that allocates them are left out. Return None if a period has more of them than
        another.
        """
        passes = [(self.events[slice(*self._forward(n))], self._backward_events(n)) for n in (1, 2, 3)]
        windows = [[*forward, *backward] for forward, backward in passes]
        allocated = [[event for event in window if event >= 0] for window in windows]
        inner = {row for own in allocated for row in own}
        outer = [[~event for event in window if event < 0 and ~event not in inner] for window in windows]
        kinds = {rows[row] for row in outer[1]}
        allocated = [_rows_of_kinds(own, allocated[1], rows) for own in allocated]
        every = [
            own + [row for row in freed if rows[row] in kinds] for own, freed in zip(allocated, outer, strict=True)
        ]
        if len({*map(len, every)}) > 1:
            return None
        inside = passing(events for pass_events in passes for events in pass_events)
        lasts = [not inside.issuperset(same) for same in zip(*every, strict=True)]
        return [[*compress(own, lasts)] for own in every]

    def forward(self) -> list[Window]:
        """Return the forward pass, with the third period once for each period that it represents, in order."""
        start, end = self._forward(2)
        _, last = self._forward(3)
        return [
            *self._windows_outside(0, start),
            Window(self.events[start:end], self.base, range(0, (self.more + 1) * self.stride, self.stride)),
            Window(self.events[end:last], self.base + self.stride, (self.more * self.stride,)),
            *self._windows_outside(last, self.marks["backward"]),
        ]

    def backward(self) -> list[Window]:
        """Return the backward pass, with the third period once for each period that it represents, in reverse."""
        if not self.has_backward:
            return [once(self.outside(self.marks["backward"], self.marks["end"]))]
        start, end = self._backward(2)
        first, _ = self._backward(3)
        _, last = self._backward(1)
        return [
            once(self.outside(self.marks["backward"], first)),
            Window(self.events[first:start], self.base + self.stride, (self.more * self.stride,)),
            Window(self.events[start:end], self.base, range(self.more * self.stride, -1, -self.stride)),
            once(self.events[end:last], self.base),
            once(self.outside(last, self.marks["end"])),
        ]

    def _windows_outside(self, start: int, end: int) -> Iterator[Window]:
        """Yield the windows of a part of the forward pass outside the periods."""
        for part in parts(self.repeated, start, end):
            yield Window(self.outside(part.start, part.end), 0, (0,) * part.times)

    def outside(self, start: int, end: int, before: list[int] | None = None) -> list[int]:
        """Return events outside the periods. An event of the third period's row is repeated for every period's row.

        They are added to the events `before` them, between the same periods.
        """
        unrolled: list[int] = [] if before is None else before
        events = self.events[start:end]
        if self.skipped:
            events = [event for event in events if event not in self.skipped]
        if before is None and self.middle.isdisjoint(events):
            return [*self._shifted(events, self.base + 2 * self.stride, self.more)]
        for is_middle, group in groupby(events, self.middle.__contains__):
            rows = list(group)
            if not is_middle:
                unrolled += self._shifted(rows, self.base + 2 * self.stride, self.more)
                continue
            (after_last,) = self._shifted(rows[:1], self.base, self.more + 1)
            periods = range(self.more + 1)
            for n in reversed(periods) if after_last in unrolled else periods:
                unrolled += self._shifted(rows, self.base, n)
        return unrolled

    def _shifted(self, events: list[int], lowest: int, periods: int) -> Sequence[int]:
        """Return the events with the rows of a later period."""
        return shifted(events, lowest, periods * self.stride)

    def _forward(self, n: int) -> tuple[int, int]:
        return self._span(n, n + 1, "forward")

    def _backward(self, n: int) -> tuple[int, int]:
        return self._span(n + 1, n, "backward")

    def _backward_events(self, n: int) -> list[int]:
        return self.events[slice(*self._backward(n))] if self.has_backward else []

    def _span(self, n: int, m: int, phase: str) -> tuple[int, int]:
        return self.marks[f"layer {self.boundaries[n]} {phase}"], self.marks[f"layer {self.boundaries[m]} {phase}"]
