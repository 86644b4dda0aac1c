"""A run of a micro-batch that tells of others: plans that differ in sizes alone go the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.symbolic_sizes import ShapeEnv, SymInt
from calculator.engine.tape import Sizes, Tape
from calculator.families import forward_of
from calculator.inputs.size_settings import other_settings, resized, sizes
from calculator.layers.context import Context
from calculator.methods.prepared_model import PreparedModel
from calculator.training_step.run import Run, ran

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.tape import Allocation

#: The most ways that are remembered of plans that differ in sizes alone.
MOST_WAYS = 8


class SymbolicTrace:
    """A run with symbolic sizes, and their `shape_env`.

    `kind_of` says of which kind each of its rows is: rows of layers that are alike are of the same kinds. `names`,
    `shape_of`, `dtypes`, `components` and `places` are of the kinds: which of the shapes each has and where the number
    of its bytes is; `sizes` numbers the places without repeats. `dims` are the shapes' dimensions; `opened` gives those
    that are open, by their numbers among them. `shapes` are right where no dimension is open; `open_shapes` gives the
    others' dimensions, by numbers.
    """

    __slots__ = (
        "components",
        "dims",
        "dtypes",
        "kind_of",
        "names",
        "open_shapes",
        "opened",
        "places",
        "run",
        "shape_env",
        "shape_of",
        "shapes",
        "sizes",
    )

    def __init__(self, shape_env: ShapeEnv, run: Run) -> None:
        self.shape_env = shape_env
        shapes = [shape for _, shape, _, _, _ in run.tape.rows]
        dims = {id(dim): dim for shape in shapes for dim in shape}
        numbers = {identity: number for number, identity in enumerate(dims)}
        self.dims = [*dims.values()]
        self.opened = [(number, dim) for number, dim in enumerate(self.dims) if isinstance(dim, SymInt)]
        numbered = [tuple([numbers[id(dim)] for dim in shape]) for shape in shapes]
        distinct = {shape: number for number, shape in enumerate(dict.fromkeys(numbered))}
        kinds: dict[tuple[str, int, DType, ComponentName, int], int] = {}
        self.kind_of = [
            kinds.setdefault((name, distinct[shape], dtype, component, shape_env.index(size)), len(kinds))
            for shape, (name, _, dtype, component, size) in zip(numbered, run.tape.rows, strict=True)
        ]
        self.names, self.shape_of, self.dtypes, self.components, self.places = zip(*kinds, strict=True)
        self.sizes = {place: number for number, place in enumerate(dict.fromkeys(self.places))}
        size_of = [self.sizes[self.places[kind]] for kind in self.kind_of]
        sized = [size_of[event] if event >= 0 else ~size_of[~event] for event in run.tape.events]
        tape = _with_rows(run.tape, [*run.tape.events], [])
        self.run = run._replace(tape=tape, lifetimes=Lifetimes(tape.events, run.tape.rows, sized), kept=None)
        self.shapes = [tuple([self.dims[number] for number in shape]) for shape in distinct]
        opened = {number for number, _ in self.opened}
        self.open_shapes = [(number, shape) for shape, number in distinct.items() if not opened.isdisjoint(shape)]
        shape_env.eliminate_dead_code([*self.sizes, *[dim.index for _, dim in self.opened]])

    def filled(self, given: Sequence[int]) -> Run | None:
        """The run with other sizes, or nothing where it goes another way."""
        values = self.shape_env.evaluate(given)
        if values is None:
            return None
        dims, shapes = [*self.dims], [*self.shapes]
        for number, dim in self.opened:
            dims[number] = dim.evaluate(values)
        for number, shape in self.open_shapes:
            shapes[number] = tuple([dims[each] for each in shape])
        shape_of, bytes_of = map(shapes.__getitem__, self.shape_of), map(values.__getitem__, self.places)
        kinds = [*zip(self.names, shape_of, self.dtypes, self.components, bytes_of, strict=True)]
        rows = [*map(kinds.__getitem__, self.kind_of)]
        lifetimes = self.run.lifetimes.with_rows(rows, [values[place] for place in self.sizes])
        return self.run._replace(tape=_with_rows(self.run.tape, self.run.tape.events, rows), lifetimes=lifetimes)


def _with_rows(like: Tape, events: list[int], rows: list[Allocation]) -> Tape:
    """A tape on which the same happened as on another, to other rows."""
    tape = Tape()
    tape.rows, tape.events, tape.marks, tape.marked_rows = rows, events, like.marks, like.marked_rows
    return tape


class TraceCache:
    """The ways that the last kind of plans was seen to go, by whether the first layer is run too.

    Plans are of one kind where they differ in sizes alone.
    """

    __slots__ = ("kind", "model", "ways")

    def __init__(self) -> None:
        self.model: Model | None = None
        self.kind: tuple[object, ...] = ()
        self.ways: dict[bool, list[SymbolicTrace]] = {}

    def run_of(self, prepared: PreparedModel, *, whole: bool) -> Run | None:
        """A plan's run, as another's tells it; nothing for the first of a kind, and where too many ways are known.

        The second plan of a kind is run with open sizes.
        """
        method, training = prepared.method, prepared.training
        kind = (other_settings(method), other_settings(training), prepared.kernels)
        if prepared.model is not self.model or kind != self.kind:
            self.model, self.kind, self.ways = prepared.model, kind, {}
        if whole not in self.ways:
            self.ways[whole] = []
            return None
        ways, given = self.ways[whole], [*sizes(training), *sizes(method)]
        run = next(filter(None, (way.filled(given) for way in ways)), None)
        if run is None and len(ways) < MOST_WAYS:
            ways.append(_symbolic_trace(prepared, whole=whole))
            run = ways[-1].filled(given)
        return run


def _symbolic_trace(prepared: PreparedModel, *, whole: bool) -> SymbolicTrace:
    """The plan's run with its sizes left open; a context allocates nothing before it is run."""
    shape_env = ShapeEnv()
    training = resized(prepared.training, shape_env.create_symint)
    method = resized(prepared.method, shape_env.create_symint)
    resized_model = PreparedModel(prepared.model, method, training, prepared.device)
    context = Context(resized_model, forward_of(prepared.model))
    context.tape.sizes = _SymSizes(shape_env)
    return SymbolicTrace(shape_env, ran(context, whole=whole))


class _SymSizes(Sizes):
    """The same of shapes that may be open. Its keys hold the places of their dimensions, whose hash would fix them."""

    __slots__ = ("shape_env",)

    def __init__(self, shape_env: ShapeEnv) -> None:
        super().__init__()
        self.shape_env = shape_env

    def __getitem__(self, key: tuple[Shape, DType]) -> int:
        shape, dtype = key
        index = self.shape_env.index
        known = tuple([dim.index if dim.__class__ is SymInt else index(dim) for dim in shape]), dtype
        if known not in self:
            self[known] = self._bytes(elements(shape), ITEMSIZE[dtype])
        return super().__getitem__(known)

    def _bytes(self, count: int, itemsize: int) -> int:
        if isinstance(count, SymInt):
            return count.binary(allocated, "", count, itemsize)
        return allocated(count, itemsize)
