"""The first period of layers in a no-grad pass, which is not interpreted if the second period is like it.

A layer of such a pass frees all of its tensors except its output and what it caches. The second period has the output
of the first one alive in addition to all that the first period has. So no more is alive in the first period, and the
second one represents it too. Only the first period's output is allocated, which the second period takes as its input.

Whether the two are equal is known when the second one has run. If they are not, the pass is interpreted again, with
both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.training_step.recorded_layers import can_be_recorded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape, Tensor
    from calculator.layers.context import Context
    from calculator.training_step.recorded_layers import RecordedLayers


def leave_out(context: Context) -> None:
    """Leave the first period out of a pass, if the second one may be like it."""
    shortened = context.repetition.from_first_period()
    if shortened is context.repetition or context.model.encoder_layers or context.images:
        return
    if context.method.virtual_tokens or not can_be_recorded(context) or _may_cache_input(context):
        return
    context.repetition, context.skips_first_period = shortened, True


def _may_cache_input(context: Context) -> bool:
    """Return whether autocast may cache a copy of the first layer's input, which then stays until the pass ends."""
    return context.grads_inputs and context.tape.autocast is not None and context.dtype == "float32"


def output_of(prefix: str) -> str:
    """Return the label of the mark before the output of a first period that is not interpreted.

    `prefix` is that of the pass's marks.
    """
    return f"{prefix}output of the first period"


def outputs_of(tape: Tape, passes: Iterable[tuple[str, Repetition]]) -> list[tuple[int, int]]:
    """Return the rows of such outputs, each with the row of the second period's output.

    Each pass has the prefix of its marks and the layers that are interpreted.
    """
    rows = tape.marked_rows
    outputs: list[tuple[int, int]] = []
    for prefix, layers in passes:
        if output_of(prefix) in rows and layers.start == 0:
            outputs.append((rows[output_of(prefix)], rows[f"{prefix}layer {layers.end} forward"]))
    return outputs


class FirstPeriod:
    """A first period that is not interpreted."""

    __slots__ = ("_dtype", "_known", "_merged", "_row", "_shape")

    def __init__(self, x: Tensor, known: RecordedLayers | None) -> None:
        """Read the period's input. `known` are the layers of the pass."""
        self._known = known if x.storage is not None else None
        self._shape: Shape = x.shape
        self._dtype: DType = x.dtype
        self._merged = x.merged
        self._row = -1

    def output(self, context: Context) -> Tensor:
        """Allocate the period's output, which is like its input."""
        tape = context.tape
        label = output_of(context.marks)
        tape.mark(label)
        self._row = tape.marked_rows[label] = len(tape.rows)
        out = tape.new(self._shape, self._dtype, label)
        out.merged = self._merged
        return out

    def compare(self, context: Context, out: Tensor) -> None:
        """Give the period's output the name of the second period's, and find out whether the periods differ.

        `out` is the output of the second period.
        """
        known, rows = self._known, context.tape.rows
        if known is None or known.has_unknown_layers or out.storage is None or out.storage.row < self._row:
            context.first_period_differs = True
            return
        rows[self._row] = rows[out.storage.row]
        context.first_period_differs = (out.dtype, out.merged) != (self._dtype, self._merged)
