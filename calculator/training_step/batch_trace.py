"""Traces of micro-batches that differ in length.

Each is traced once with a symbolic length, then sized for each length.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import filterfalse
from typing import TYPE_CHECKING

from calculator.engine.sym_sizes import SymSizes
from calculator.engine.symbolic_sizes import ShapeEnv
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.unrolled import unrolled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.training_step.unrolled import Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The events of micro-batches that run the same operations: event `n` allocates row `n`, event `~n` frees it.

    Attributes:
        names: The name of each row's tensor.
        passes: The events of the forward and of the backward pass. Rows of zero bytes have no block and no event.
        workspaces: The position in each pass at which a workspace is allocated for its first matrix product.
        gradients: The rows of gradients.
        left: The other rows that are alive at the end: the batch, the loss, and what its graph keeps.
        streams: The CUDA stream of each row, by number. Empty if all rows are on the first stream.
        taken: Gradients that the first micro-batch of the step allocates and the last one frees.
    """

    names: Sequence[str]
    passes: tuple[Sequence[int], Sequence[int]]
    workspaces: tuple[int, int]
    gradients: Sequence[int]
    left: Sequence[int]
    streams: Sequence[int]
    taken: Sequence[int]


class BatchTrace:
    """A traced micro-batch with a symbolic length.

    It gives the bytes of each row for any length with the same operations.
    """

    __slots__ = ("_empty", "_env", "_indices", "_kinds", "program")

    def __init__(self, prepared: PreparedModel, *, reduces: bool = True) -> None:
        self._env = ShapeEnv()
        length = self._env.create_symint(prepared.training.sequence_length)
        training = replace(prepared.training, sequence_length=length)
        symbolic = PreparedModel(prepared.model, prepared.method, training, prepared.device, prepared.stack)
        events = unrolled(symbolic, reduces=reduces, symbols=SymSizes(self._env)).events()
        sizes = [row[4] for row in events.rows]
        self._indices = [*dict.fromkeys(sizes)]
        numbers = {index: number for number, index in enumerate(self._indices)}
        self._kinds = [numbers[index] for index in sizes]
        self._empty = [not self._env.values[index] for index in self._indices]
        self.program = _program(events, {row for row, kind in enumerate(self._kinds) if self._empty[kind]})
        self._env.eliminate_dead_code(self._indices)

    def sizes(self, length: int) -> list[int] | None:
        """Return the bytes of every row for a length, or None if other operations would run."""
        values = self._env.evaluate((length,))
        if values is None:
            return None
        kinds = [values[index] for index in self._indices]
        if [not size for size in kinds] != self._empty:
            return None
        return [kinds[kind] for kind in self._kinds]


class BatchTraces:
    """The traces of a run's micro-batches, one for each set of operations."""

    __slots__ = ("_prepared", "_reduces", "_traces")

    def __init__(self, prepared: PreparedModel, *, reduces: bool = True) -> None:
        """Trace the micro-batches of a prepared model.

        `reduces`: whether they are the last of their steps, in which a sharding reduces gradients.
        """
        self._prepared = prepared
        self._reduces = reduces
        self._traces: list[BatchTrace] = []

    def sized(self, length: int) -> tuple[Program, list[int]]:
        """Return the program of micro-batches of a length, and the bytes of its rows."""
        for trace in self._traces:
            sizes = trace.sizes(length)
            if sizes is not None:
                return trace.program, sizes
        training = replace(self._prepared.training, sequence_length=length)
        prepared = self._prepared.for_run(training, self._prepared.device)
        self._traces.append(BatchTrace(prepared, reduces=self._reduces))
        return self.sized(length)


def _program(events: Events, empty: set[int]) -> Program:
    forward, backward = (
        [event for event in passed if max(event, ~event) not in empty] if empty else [*passed]
        for passed in (events.forward, events.backward)
    )
    gradient_rows = [row for row in forward if row >= 0 and events.rows[row][3] == "gradients"]
    if gradient_rows:
        forward = [*filterfalse({*gradient_rows}.__contains__, forward)]
    return Program(
        names=[row[0] for row in events.rows],
        passes=(forward, backward),
        workspaces=(events.workspace_place(forward), events.workspace_place(backward)),
        gradients=[row for row in events.gradients if row not in empty],
        left=[row for row in events.left if row not in empty],
        streams=events.streams,
        taken=gradient_rows,
    )
