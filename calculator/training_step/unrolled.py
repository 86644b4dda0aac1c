"""The events of a micro-batch with every layer unrolled, as the caching allocator receives them.

Four periods of layers are interpreted (see `repetition`). The third represents all periods between it and the last one.
It is the first period with equal periods on both sides. Some rows that it frees belong to the neighboring periods.
Every other period frees the same rows of its own neighbors. So the events of the third period are repeated with the
rows of each period: in order in the forward pass, in reverse in the backward pass.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from itertools import compress, groupby
from operator import invert
from typing import TYPE_CHECKING, Any

from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.loops import expanded
from calculator.engine.offloading import without_previous
from calculator.engine.repetition import NOT_RUN, Repetition
from calculator.sharding.streams import streams_of
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.compared import fills_cache
from calculator.training_step.repeated_layers import Repeated, with_every_layer
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from calculator.engine.sym_sizes import SymSizes
    from calculator.engine.tape import Allocation, Tape
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel

#: The number of periods that are interpreted.
PERIODS = 4

#: How the names of a pass's first matrix product end: rotary angles, a layer's output, or the head's gradients.
_PRODUCTS = ("rotary: freqs", "matmul: gradient", "weight: gradient", "product: gradient")
_IN_A_LAYER = ".*."


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """One forward and backward pass. Event `n` allocates row `n`, and event `~n` frees it.

    At the end, the rows in `gradients` and in `left` are alive: the batch, the loss, and what the loss's graph keeps.
    `streams` has the CUDA stream of each row, by number. It is empty if all rows are on the first stream.
    """

    rows: Sequence[Allocation]
    forward: Sequence[int]
    backward: Sequence[int]
    gradients: Sequence[int]
    left: Sequence[int]
    streams: Sequence[int] = ()

    def first_product(self, events: Sequence[int]) -> int:
        """Return the position of the first matrix product in a pass."""
        return first_product(events, self.rows) or 0


def first_product(events: Sequence[int], rows: Sequence[Allocation]) -> int | None:
    """Return the position of the first matrix product among events, or None."""
    named = ((at, rows[row][0]) for at, row in enumerate(events) if row >= 0)
    return next((at for at, name in named if name.endswith(_PRODUCTS) or _IN_A_LAYER in name), None)


@dataclass(frozen=True, slots=True)
class Window:
    """A part of a pass that is repeated with the rows of each period.

    Every repetition has the same `events`. Each adds its own shift to the rows from `lowest` on.
    """

    events: Sequence[int]
    lowest: int
    shifts: Sequence[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """A micro-batch in windows.

    From row `base` on, there are `stride` rows for each of these periods in turn: the second, the third, its `copies`,
    and the fourth, which is the last. `streams` has the CUDA stream of each row, by number. It is empty if all rows are
    on the first stream. With `takes`, rows that are freed but not allocated are tensors of an earlier micro-batch.
    `known` caches results that depend on the windows alone. Micro-batches with other sizes share it.
    """

    rows: Sequence[Allocation]
    forward: Sequence[Window]
    backward: Sequence[Window]
    base: int
    stride: int
    copies: int
    streams: Sequence[int] = ()
    takes: bool = False
    known: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    def events(self) -> Events:
        """Return the events of all repetitions in order."""
        forward, backward = (
            [event for window in windows for by in window.shifts for event in shifted(window.events, window.lowest, by)]
            for windows in (self.forward, self.backward)
        )
        return _passes(self.rows, forward, backward, self.streams)


def shifted(events: Sequence[int], lowest: int, by: int) -> Sequence[int]:
    """Return the events with `by` added to the rows from `lowest` on."""
    if not by:
        return events
    return [e + by if e >= lowest else e - by if ~e >= lowest else e for e in events]


def events(prepared: PreparedModel, *, periods: int = PERIODS) -> Events:
    """Interpret a micro-batch and unroll its layers.

    Every layer is interpreted if the model has no more than `periods` periods.
    """
    return unrolled(prepared, periods=periods).events()


def unrolled(
    prepared: PreparedModel, *, reduces: bool = True, periods: int = PERIODS, symbols: SymSizes | None = None
) -> Unrolled:
    """Interpret a micro-batch, and unroll its layers in windows.

    `reduces`: whether it is the last of its step, in which a sharding reduces gradients. With `symbols`, sizes of the
    training are symbolic, and rows have the indices of their dimensions and bytes instead.
    """
    listed = partial(_unrolled, prepared, reduces=reduces, periods=periods, symbols=symbols)
    found = None if fills_cache(prepared) else listed(repeats_layers=True)
    found = found or listed(repeats_layers=False)
    assert found is not None, "layers that are not repeated are listed"
    return found


@without_frame_snapshots
def _unrolled(
    prepared: PreparedModel, *, reduces: bool, periods: int, symbols: SymSizes | None, repeats_layers: bool
) -> Unrolled | None:
    """Unroll a micro-batch. Return None if the layers of a pass without a graph are not alike.

    With `repeats_layers`, only one period of such layers is interpreted and repeated.
    """
    context, sharding = training_context(prepared, reduces=reduces), prepared.device.sharding
    if symbols is not None:
        context.tape.sizes = symbols
    context.repeats_layers = repeats_layers
    repetition, more = context.repetition, interpret_periods(context, periods)
    if symbols is not None:
        context.tape.rows = symbols.indexed(context.tape.rows)
    tape = expanded(context.tape)
    again = with_every_layer(tape, context.passes if repeats_layers else ())
    if again is None:
        return None
    marks = {label: position for position, label in tape.marks}
    if more <= 0:
        middle, end = marks["backward"], marks["end"]
        outside = without_previous(tape)
        return Unrolled(
            rows=tape.rows,
            forward=[Window(outside(each.start, each.end), 0, (0,) * each.times) for each in _parts(again, 0, middle)],
            backward=[_once(outside(middle, end))],
            base=len(tape.events),
            stride=1,
            copies=0,
            streams=streams_of(tape.rows, sharding, offloads=prepared.offloads_activations),
        )
    spread = Periods(tape, marks, repetition, more, again)
    return Unrolled(
        rows=spread.rows,
        forward=spread.forward(),
        backward=spread.backward(),
        base=spread.base,
        stride=spread.stride,
        copies=more,
        streams=streams_of(spread.rows, sharding),
    )


def interpret_periods(context: Context, periods: int) -> int:
    """Interpret a few periods of a micro-batch. Return the number of periods that the third one represents after it.

    It is not positive if every layer is interpreted.
    """
    repetition = context.repetition
    period, more = repetition.end - repetition.start, repetition.copies + 2 - periods
    count = len(repetition.numbers) + repetition.copies * period
    last = repetition.end + (periods - 2) * period
    numbers = (*range(last), *range(last + more * period, count)) if more > 0 else tuple(range(count))
    repeated = range(last - period, last) if more > 0 else range(0)
    context.unrolls = True
    context.repetition = Repetition(
        numbers=numbers, start=count, end=count, copies=0, repeated_positions=repeated, repeats=max(0, more)
    )
    context.tape.folds_loops = True
    micro_batch(context)
    return more


def _parts(repeated: Sequence[Repeated], start: int, end: int) -> Iterator[Repeated]:
    """Divide the positions from `start` to `end` into parts that are repeated and parts that are not."""
    for each in repeated:
        if start <= each.start < end:
            yield Repeated(start, each.start, 1)
            yield each
            start = each.end
    yield Repeated(start, end, 1)


def _once(events: Sequence[int], lowest: int = 0) -> Window:
    return Window(events, lowest, (0,))


def _passes(rows: Sequence[Allocation], forward: list[int], backward: list[int], streams: Sequence[int]) -> Events:
    alive = dict.fromkeys(forward)
    alive.update(dict.fromkeys(backward))
    kept = [row for row in alive if row >= 0 and ~row not in alive]
    return Events(
        rows=rows,
        forward=forward,
        backward=backward,
        gradients=[row for row in kept if rows[row][3] == "gradients"],
        left=[row for row in kept if rows[row][3] != "gradients"],
        streams=streams,
    )


def _like(own: list[int], like: list[int], rows: Sequence[Allocation]) -> list[int]:
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


def _passing(passes: Iterable[list[int]]) -> set[int]:
    """Return the events of the rows that a pass both allocates and frees."""
    found = set[int]()
    for events in passes:
        own = set(events)
        found |= own.intersection(map(invert, own))
    return found


class Periods:
    """The events of four periods, the third of which represents `more` periods after it.

    The rows of the second, third and fourth period are renumbered from `base` on, in the same order for each. The same
    row of the next period has a number that is `stride` higher. Rows that a period frees in the pass that allocates
    them are not renumbered. Every repetition of the period uses them again.
    """

    __slots__ = (
        "base",
        "boundaries",
        "events",
        "has_backward",
        "marks",
        "middle",
        "more",
        "repeated",
        "rows",
        "skipped",
        "stride",
    )

    def __init__(
        self, tape: Tape, marks: dict[str, int], repetition: Repetition, more: int, repeated: Sequence[Repeated]
    ) -> None:
        self.marks = marks
        self.more = more
        #: The repeated events of passes without a graph.
        self.repeated = repeated
        before, start, end = repetition.boundaries
        #: Whether gradients flow through these periods. They do not if nothing before or in them is trained.
        self.has_backward = f"layer {start} backward" in marks
        #: The layers at which the periods start, and the one at which the last period ends.
        self.boundaries = range(before, before + (PERIODS + 1) * (end - start), end - start)
        names = {name for name in {kind[0] for kind in tape.rows} if name.endswith(NOT_RUN)}
        skipped = [row for row, kind in enumerate(tape.rows) if kind[0] in names] if names else []
        #: The events of rows that stand for layers that are not interpreted. Here every layer has its own rows.
        self.skipped = {*skipped, *(~row for row in skipped)}
        self.events = tape.events[: marks["end"]]
        periods = self._periods(tape.rows)
        self.base = len(tape.rows)
        self.stride = len(periods[1])
        numbers = list(range(self.base))
        for n, rows in enumerate(periods):
            for k, row in enumerate(rows):
                numbers[row] = self.base + n * self.stride + k
        #: The events of the third period's rows.
        own = range(self.base + self.stride, self.base + 2 * self.stride)
        self.middle = {*own, *map(invert, own)}
        # Each row has two numbers here, so that its events `n` and `~n` are valid indices.
        numbers += [~number for number in reversed(numbers)]
        self.events = [*map(numbers.__getitem__, self.events)]
        self.rows = [*tape.rows, *([tape.rows[row] for row in periods[1]] * (3 + more))]

    def _periods(self, rows: Sequence[Allocation]) -> list[list[int]]:
        """Return the rows of the second, third and fourth period: those that it allocates, and others that it frees.

        The latter are allocated outside all three periods, and the third period frees a row of the same kind. Rows that
        all three free in the pass that allocates them are left out.
        """
        passes = [(self.events[slice(*self._forward(n))], self._backward_events(n)) for n in (1, 2, 3)]
        windows = [[*forward, *backward] for forward, backward in passes]
        allocated = [[event for event in window if event >= 0] for window in windows]
        inner = {row for own in allocated for row in own}
        outer = [[~event for event in window if event < 0 and ~event not in inner] for window in windows]
        kinds = {rows[row] for row in outer[1]}
        allocated = [_like(own, allocated[1], rows) for own in allocated]
        every = [
            own + [row for row in freed if rows[row] in kinds] for own, freed in zip(allocated, outer, strict=True)
        ]
        passing = _passing(events for both in passes for events in both)
        lasts = [not passing.issuperset(same) for same in zip(*every, strict=True)]
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
            return [_once(self.outside(self.marks["backward"], self.marks["end"]))]
        start, end = self._backward(2)
        first, _ = self._backward(3)
        _, last = self._backward(1)
        return [
            _once(self.outside(self.marks["backward"], first)),
            Window(self.events[first:start], self.base + self.stride, (self.more * self.stride,)),
            Window(self.events[start:end], self.base, range(self.more * self.stride, -1, -self.stride)),
            _once(self.events[end:last], self.base),
            _once(self.outside(last, self.marks["end"])),
        ]

    def _windows_outside(self, start: int, end: int) -> Iterator[Window]:
        """Yield the windows of a part of the forward pass outside the periods."""
        for each in _parts(self.repeated, start, end):
            yield Window(self.outside(each.start, each.end), 0, (0,) * each.times)

    def outside(self, start: int, end: int, before: list[int] | None = None) -> list[int]:
        """Return events outside the periods. An event of the third period's row is repeated for every period's row.

        They are added to the events `before` them, between the same periods.
        """
        unrolled: list[int] = [] if before is None else before
        events = self.events[start:end]
        if self.skipped:
            events = [event for event in events if event not in self.skipped]
        for of_middle, group in groupby(events, self.middle.__contains__):
            rows = list(group)
            if not of_middle:
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
        return self._between(n, n + 1, "forward")

    def _backward(self, n: int) -> tuple[int, int]:
        return self._between(n + 1, n, "backward")

    def _backward_events(self, n: int) -> list[int]:
        return self.events[slice(*self._backward(n))] if self.has_backward else []

    def _between(self, n: int, m: int, phase: str) -> tuple[int, int]:
        return self.marks[f"layer {self.boundaries[n]} {phase}"], self.marks[f"layer {self.boundaries[m]} {phase}"]
