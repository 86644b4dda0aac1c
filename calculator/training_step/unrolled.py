"""The events of a micro-batch with every layer unrolled, as the caching allocator receives them.

A few periods of layers are interpreted (see `repetition`), and one of them is repeated with the rows of each period. If
three are not enough (see `equal_periods`), four are (see `periods`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calculator.engine.frame_snapshots import without_frame_snapshots
from calculator.engine.loops import expanded
from calculator.engine.offloading import without_previous
from calculator.engine.repetition import Repetition
from calculator.sharding.streams import streams_of
from calculator.training_step.causal_lm import micro_batch
from calculator.training_step.checkpointed_layers import LayersDifferError
from calculator.training_step.equal_periods import EqualPeriods
from calculator.training_step.model_passes import fills_cache
from calculator.training_step.periods import Periods, Window, after_product, once, parts, shifted
from calculator.training_step.repeated_layers import with_every_layer
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Sequence

    from calculator.engine.sym_sizes import SymSizes
    from calculator.engine.tape import Allocation
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """One forward and backward pass. Event `n` allocates row `n`, and event `~n` frees it.

    At the end, the rows in `gradients` and in `left` are alive: the batch, the loss, and what the loss's graph keeps.
    `products` are the names of the results of matrix products. `streams` has the CUDA stream of each row, by number. It
    is empty if all rows are on the first stream.
    """

    rows: Sequence[Allocation]
    forward: Sequence[int]
    backward: Sequence[int]
    gradients: Sequence[int]
    left: Sequence[int]
    products: Collection[str]
    streams: Sequence[int] = ()

    def workspace_place(self, events: Sequence[int]) -> int:
        """Return the position in a pass at which a workspace is allocated for its first matrix product."""
        return after_product(events, self.rows, self.products) or 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Unrolled:
    """A micro-batch in windows.

    From row `base` on, there are `stride` rows for each of these periods in turn: one before the repeated period, the
    repeated one, its `copies`, and one after them. `products` are the names of the results of matrix products.
    `streams` has the CUDA stream of each row, by number. It is empty if all rows are on the first stream. With `takes`,
    rows that are freed but not allocated are tensors of an earlier micro-batch.
    `known` caches results that depend on the windows alone. Micro-batches with other sizes share it.
    """

    rows: Sequence[Allocation]
    forward: Sequence[Window]
    backward: Sequence[Window]
    base: int
    stride: int
    copies: int
    products: Collection[str]
    streams: Sequence[int] = ()
    takes: bool = False
    known: dict[Hashable, Any] = field(default_factory=dict, compare=False, repr=False)

    def events(self) -> Events:
        """Return the events of all repetitions in order."""
        forward, backward = (
            [event for window in windows for by in window.shifts for event in shifted(window.events, window.lowest, by)]
            for windows in (self.forward, self.backward)
        )
        return _passes(self, forward, backward)


def events(prepared: PreparedModel) -> Events:
    """Interpret a micro-batch and unroll its layers."""
    return unrolled(prepared).events()


def every_event(prepared: PreparedModel) -> Events:
    """Interpret every layer of a micro-batch."""
    listed = _listed(training_context(prepared), prepared, None, None)
    assert listed is not None, "every layer is interpreted"
    return listed.events()


def unrolled(prepared: PreparedModel, *, reduces: bool = True, symbols: SymSizes | None = None) -> Unrolled:
    """Interpret a micro-batch, and unroll its layers in windows.

    `reduces`: whether it is the last of its step, in which a sharding reduces gradients. With `symbols`, sizes of the
    training are symbolic, and rows have the indices of their dimensions and bytes instead.
    """
    for repeats_layers in (False,) if fills_cache(prepared) else (True, False):
        for periods in (EqualPeriods, Periods):
            result = _unrolled(prepared, periods, reduces=reduces, symbols=symbols, repeats_layers=repeats_layers)
            if result is not None:
                return result
    every = _unrolled(prepared, None, reduces=reduces, symbols=symbols, repeats_layers=False)
    assert every is not None, "every layer is interpreted"
    return every


def _unrolled(
    prepared: PreparedModel,
    periods: type[Periods] | None,
    *,
    reduces: bool,
    symbols: SymSizes | None,
    repeats_layers: bool,
) -> Unrolled | None:
    """Unroll a micro-batch. Return None if periods or the layers of a no-grad pass are not equal.

    Without `periods`, the events of every layer are listed. With `repeats_layers`, only one period of the layers of a
    pass under no_grad is interpreted and repeated.
    """

    def listed(*, records_layers_again: bool) -> Unrolled | None:
        context = training_context(prepared, reduces=reduces)
        if symbols is not None:
            context.tape.sizes = symbols
        context.repeats_layers, context.records_layers_again = repeats_layers, records_layers_again
        return _listed(context, prepared, periods, symbols)

    try:
        return listed(records_layers_again=True)
    except LayersDifferError:
        return listed(records_layers_again=False)


@without_frame_snapshots
def _listed(
    context: Context, prepared: PreparedModel, periods: type[Periods] | None, symbols: SymSizes | None
) -> Unrolled | None:
    """Interpret a micro-batch in a new context, and list its windows."""
    sharding = prepared.device.sharding
    repetition, more = context.repetition, interpret_periods(context, periods.interpreted if periods else None)
    if symbols is not None:
        context.tape.rows = symbols.indexed(context.tape.rows)
    tape = expanded(context.tape)
    context.drop_graph()
    again = with_every_layer(tape, context.passes if context.repeats_layers else ())
    if again is None:
        return None
    marks = {label: position for position, label in tape.marks}
    if periods is None or more <= 0:
        middle, end = marks["backward"], marks["end"]
        outside = without_previous(tape)
        return Unrolled(
            rows=tape.rows,
            forward=[Window(outside(part.start, part.end), 0, (0,) * part.times) for part in parts(again, 0, middle)],
            backward=[once(outside(middle, end))],
            base=len(tape.events),
            stride=1,
            copies=0,
            products=tape.products,
            streams=streams_of(tape.rows, sharding, offloads=prepared.offloads_activations),
        )
    spread = periods(tape, marks, repetition, more, again)
    if not spread.is_regular:
        return None
    return Unrolled(
        rows=spread.rows,
        forward=spread.forward(),
        backward=spread.backward(),
        base=spread.base,
        stride=spread.stride,
        copies=spread.copies,
        products=tape.products,
        streams=streams_of(spread.rows, sharding),
    )


def interpret_periods(context: Context, periods: int | None) -> int:
    """Interpret a few periods of a micro-batch, or all. Return the number of periods that are not interpreted.

    It is not positive if every layer is interpreted.
    """
    repetition = context.repetition
    period, most = repetition.end - repetition.start, repetition.copies + 2
    periods = most if periods is None else periods
    more = most - periods
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


def _passes(unrolled: Unrolled, forward: list[int], backward: list[int]) -> Events:
    rows = unrolled.rows
    alive = dict.fromkeys(forward)
    alive.update(dict.fromkeys(backward))
    kept = [row for row in alive if row >= 0 and ~row not in alive]
    return Events(
        rows=rows,
        forward=forward,
        backward=backward,
        gradients=[row for row in kept if rows[row][3] == "gradients"],
        left=[row for row in kept if rows[row][3] != "gradients"],
        products=unrolled.products,
        streams=unrolled.streams,
    )
