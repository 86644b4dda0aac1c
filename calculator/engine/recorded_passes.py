"""No-grad passes that run more than once. The same model on the same batch has the same events.

The peaks and the replay of a step interpret the same passes. A trainer may also run one for two batches of the same
shape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from operator import invert, itemgetter
from typing import TYPE_CHECKING, NamedTuple, cast

from calculator.engine.tape import Sizes, Storage, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Hashable, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Allocation, Tape
    from calculator.inputs.training import Training

#: The loss of a pass, and the other outputs of the model.
Outputs = tuple[Tensor, list[Tensor]]


class _Output(NamedTuple):
    """An output of a pass. `row` is the number of its row within the pass, or None for a parameter."""

    row: int | None
    shape: Shape
    dtype: DType
    merged: bool


class _Pass(NamedTuple):
    """The recorded rows, events and marks of a pass, without the prefix of their names.

    Attributes:
        start: The number of rows and of events before it.
        marked_rows: The labels of marks and the rows that they mark.
        inherits: The component of the code around it, which the first rows have. It is compared by identity.
        component: The component after the pass. None if the pass does not change it.
    """

    start: tuple[int, int]
    rows: Sequence[Allocation]
    events: Sequence[int]
    marks: Sequence[tuple[int, str]]
    marked_rows: Sequence[tuple[str, int]]
    outputs: Sequence[_Output]
    layers: Repetition
    inherits: ComponentName
    component: ComponentName | None

    @property
    def is_closed(self) -> bool:
        """Whether it leaves nothing but its outputs, and frees nothing that was there before."""
        row, _ = self.start
        rows = {output.row for output in self.outputs if output.row is not None}
        # In order, these are the frees of the pass's own rows, those of earlier rows, and the allocations.
        ordered = sorted(self.events)
        own, earlier = bisect_left(ordered, -row), bisect_left(ordered, 0)
        return own == earlier and min(rows, default=row) >= row and len(ordered) - 2 * own == len(rows)

    def only_sizes(self, sizes: Container[int]) -> _Pass:
        """Return the pass with its outputs and the rows of some sizes in bytes alone, without marks."""
        first = self.start[0]
        outputs = {output.row for output in self.outputs}
        sizes_of_rows = map(itemgetter(4), self.rows)
        kept = [row for row, size in enumerate(sizes_of_rows, first) if size in sizes or row in outputs]
        numbers = {row: number for number, row in enumerate(kept, first)}
        number_of_event = numbers | {~row: ~number for row, number in numbers.items()}
        return self._replace(
            rows=[self.rows[row - first] for row in kept],
            events=[*map(number_of_event.__getitem__, filter(number_of_event.__contains__, self.events))],
            marks=(),
            marked_rows=(),
            outputs=[
                output if output.row is None else output._replace(row=numbers[output.row]) for output in self.outputs
            ],
        )

    def record(self, tape: Tape, name: str) -> Outputs:
        """Record the pass again on a tape, under another name."""
        row, at = len(tape.rows) - self.start[0], len(tape.events) - self.start[1]
        names, shapes, dtypes, components, sizes = zip(*self.rows, strict=True)
        if tape.component != self.inherits:
            inherits, own = self.inherits, tape.component
            components = tuple([own if component is inherits else component for component in components])
        tape.rows += zip(map(name.__add__, names), shapes, dtypes, components, sizes, strict=True)
        tape.marks += [(at + place, name + label) for place, label in self.marks]
        tape.marked_rows.update((name + label, row + number) for label, number in self.marked_rows)
        numbers = {output.row for output in self.outputs if output.row is not None}
        storages = {number: Storage.from_row(row + number, tape.events) for number in numbers}
        tape.events += [event + row if event >= 0 else event - row for event in self.events]
        tape.component = self.component or tape.component
        tensors = []
        for output in self.outputs:
            tensor = Tensor(
                tape, None if output.row is None else storages[output.row], output.shape, output.dtype, None
            )
            tensor.merged = output.merged
            tensors.append(tensor)
        return tensors[0], tensors[1:]


class RecordedPasses:
    """The recorded passes of one training run, by what runs in them."""

    __slots__ = ("_passes", "_places", "_training", "are_replayed")

    def __init__(self) -> None:
        #: Whether a replay needs the passes too, with two periods of their layers.
        self.are_replayed = False
        self._training: Training | None = None
        self._passes: dict[Hashable, _Pass] = {}
        #: The tape on which each pass was last recorded as a whole, the number of events then, and its outputs' rows.
        self._places: dict[Hashable, tuple[Tape, int, list[int]]] = {}

    def run(
        self,
        tape: Tape,
        name: str,
        key: tuple[Training, Hashable],
        run: Callable[[], tuple[Outputs, Repetition]],
        *,
        lists_all: bool,
    ) -> tuple[Outputs, Repetition | None]:
        """Run a pass, or record a known one again. Return its outputs and the layers that run.

        `key` contains everything that determines the events, except the component of the code around the pass. Only the
        passes of the last training are kept. Unless `lists_all`, a known pass that decides no figure is recorded
        without its layers, which are then None.
        """
        training, own = key
        if training is not self._training and training != self._training:
            self._training, self._passes, self._places = training, {}, {}
        known = self._passes.get(own)
        if known is not None and known.is_closed:
            more = None if lists_all else self._more_alive(own, tape)
            if more is not None:
                return known.only_sizes(more).record(tape, name), None
            outputs = known.record(tape, name)
            self._places[own] = _place(tape, outputs)
            return outputs, known.layers
        start, loops = (len(tape.rows), len(tape.events), len(tape.marks)), len(tape.loops)
        outer = tape.component
        # This string is equal, but a distinct object: rows that inherit the component are recognized by its identity.
        tape.component = inherits = another(outer)
        outputs, layers = run()
        end = None if tape.component is inherits else tape.component
        tape.component = end or outer
        if len(tape.loops) == loops and all(map(_is_plain, (outputs[0], *outputs[1]))):
            self._passes[own] = _recorded(tape, name, start, outputs, layers, (inherits, end))
            self._places[own] = _place(tape, outputs)
        _rename(tape, name, start[0])
        return outputs, layers

    def _more_alive(self, own: Hashable, tape: Tape) -> set[int] | None:
        """Return the sizes of which more tensors are alive now than before the pass ran as a whole.

        The pass left nothing but its outputs. Of all other sizes, no more are alive at any moment of the pass. Return
        None if more bytes are alive, so that the pass may reach a peak, or if that cannot be compared.
        """
        other, position, outputs = self._places.get(own, (None, 0, []))
        if other is not tape or tape.autocast is not None or tape.sizes.__class__ is not Sizes:
            return None
        since = {*outputs, *tape.events[position:]}
        more: defaultdict[int, int] = defaultdict(int)
        for event in since.difference(map(invert, since)):
            more[tape.rows[max(event, ~event)][4]] += 1 if event >= 0 else -1
        if sum(size * count for size, count in more.items()) > 0:
            return None
        return {size for size, count in more.items() if count > 0}


def _place(tape: Tape, outputs: Outputs) -> tuple[Tape, int, list[int]]:
    """Return the place of a pass that has been recorded with these outputs."""
    storages = [tensor.storage for tensor in (outputs[0], *outputs[1])]
    return tape, len(tape.events), [storage.row for storage in storages if storage is not None]


def named(tape: Tape, name: str, run: Callable[[], tuple[Outputs, Repetition]]) -> tuple[Outputs, Repetition]:
    """Run a pass that does not run again, and prefix the names of its rows."""
    first = len(tape.rows)
    outputs, layers = run()
    _rename(tape, name, first)
    return outputs, layers


def _rename(tape: Tape, name: str, first: int) -> None:
    names, shapes, dtypes, components, sizes = zip(*tape.rows[first:], strict=True)
    tape.rows[first:] = zip(map(name.__add__, names), shapes, dtypes, components, sizes, strict=True)


def another(component: ComponentName) -> ComponentName:
    """Return an equal string that is a distinct object."""
    return cast("ComponentName", str(component.encode(), "ascii"))


def _is_plain(tensor: Tensor) -> bool:
    return tensor.__class__ is Tensor and tensor.edge is None and not tensor.viewed


def _recorded(
    tape: Tape,
    name: str,
    start: tuple[int, int, int],
    outputs: Outputs,
    layers: Repetition,
    components: tuple[ComponentName, ComponentName | None],
) -> _Pass:
    """Return the pass that started at the given rows, events and marks."""
    row, at, mark = start
    length, marks = len(name), tape.marks[mark:]
    return _Pass(
        start=(row, at),
        rows=tape.rows[row:],
        events=tape.events[at:],
        marks=[(place, label[length:]) for place, label in marks],
        marked_rows=[
            (label[length:], tape.marked_rows[label]) for _, label in marks if tape.marked_rows.get(label, -1) >= row
        ],
        outputs=[
            _Output(None if tensor.storage is None else tensor.storage.row, tensor.shape, tensor.dtype, tensor.merged)
            for tensor in (outputs[0], *outputs[1])
        ],
        layers=layers,
        inherits=components[0],
        component=components[1],
    )
