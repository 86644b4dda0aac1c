"""Passes without a graph that are run again: the same model on the same batch has the same events.

A step's peaks and its replay interpret the same passes, and a trainer may run one for two batches of the same shape.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.tape import Storage, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Allocation, Tape
    from calculator.inputs.training import Training

#: The loss of a pass, and the other outputs of the model.
Outputs = tuple[Tensor, list[Tensor]]


class _Output(NamedTuple):
    """An output: the number of its row in the pass, None for a parameter's; and what it is."""

    row: int | None
    shape: Shape
    dtype: DType
    merged: bool


class _Pass(NamedTuple):
    """The rows, events and marks of a pass, numbered from its first ones, without the prefix of their names."""

    rows: Sequence[Allocation]
    events: Sequence[int]
    marks: Sequence[tuple[int, str]]
    marked_rows: Sequence[tuple[str, int]]
    outputs: Sequence[_Output]
    layers: Repetition

    def on(self, tape: Tape, name: str) -> Outputs:
        """Record the pass again on a tape, under another name."""
        row, at = len(tape.rows), len(tape.events)
        tape.rows += [(name + own, shape, dtype, component, size) for own, shape, dtype, component, size in self.rows]
        tape.marks += [(at + place, name + label) for place, label in self.marks]
        tape.marked_rows.update((name + label, row + number) for label, number in self.marked_rows)
        numbers = {each.row for each in self.outputs if each.row is not None}
        storages = {number: Storage.of_row(row + number, tape.events) for number in numbers}
        tape.events += [event + row if event >= 0 else event - row for event in self.events]
        tensors = []
        for each in self.outputs:
            tensor = Tensor(tape, None if each.row is None else storages[each.row], each.shape, each.dtype, None)
            tensor.merged = each.merged
            tensors.append(tensor)
        return tensors[0], tensors[1:]


class KnownPasses:
    """The passes of the micro-batches of one training, by what runs."""

    __slots__ = ("_passes", "_training")

    def __init__(self) -> None:
        self._training: Training | None = None
        self._passes: dict[Hashable, _Pass] = {}

    def run(
        self, tape: Tape, name: str, key: tuple[Training, Hashable], run: Callable[[], tuple[Outputs, Repetition]]
    ) -> tuple[Outputs, Repetition]:
        """Run a pass or record it again: its outputs, and the layers that run.

        `key` is all that decides its events. They are kept for the last training.
        """
        training, own = key
        if training is not self._training and training != self._training:
            self._training, self._passes = training, {}
        known = self._passes.get(own)
        if known is not None:
            return known.on(tape, name), known.layers
        start, loops = (len(tape.rows), len(tape.events), len(tape.marks)), len(tape.loops)
        outputs, layers = run()
        recorded = _recorded(tape, name, start, outputs, layers) if len(tape.loops) == loops else None
        if recorded is not None:
            self._passes[own] = recorded
        return outputs, layers


def _recorded(tape: Tape, name: str, start: tuple[int, int, int], outputs: Outputs, layers: Repetition) -> _Pass | None:
    """Return a pass from its start on; None if it leaves more than its outputs, or frees what was there before."""
    row, at, mark = start
    events = tape.events[at:]
    alive: set[int] = set()
    for event in events:
        if event >= 0:
            alive.add(event)
        elif ~event in alive:
            alive.remove(~event)
        else:
            return None
    tensors = [outputs[0], *outputs[1]]
    if any(each.__class__ is not Tensor or each.edge is not None or each.viewed for each in tensors):
        return None
    rows = [None if each.storage is None else each.storage.row for each in tensors]
    if alive != {*rows} - {None}:
        return None
    length, labels = len(name), tape.marks[mark:]
    return _Pass(
        rows=[(kind[0][length:], *kind[1:]) for kind in tape.rows[row:]],
        events=[event - row if event >= 0 else event + row for event in events],
        marks=[(place - at, label[length:]) for place, label in labels],
        marked_rows=[
            (label[length:], tape.marked_rows[label] - row)
            for _, label in labels
            if tape.marked_rows.get(label, -1) >= row
        ],
        outputs=[
            _Output(None if own is None else own - row, each.shape, each.dtype, each.merged)
            for own, each in zip(rows, tensors, strict=True)
        ],
        layers=layers,
    )
