"""A symbolic trace of one micro-batch, replayed with other sizes while its guards hold."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine.lifetimes import Lifetimes
from calculator.engine.symbolic_sizes import ShapeEnv, SymInt
from calculator.engine.tape import Sizes, Tape
from calculator.inputs.size_settings import other_settings, resized, sizes
from calculator.methods.prepared_model import PreparedModel
from calculator.sharding.registry import SHARDS
from calculator.training_step.run import Run, interpreted
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.tape import Allocation

#: The most traces that are cached for requests that differ in sizes alone.
MAX_TRACES = 8


class SymbolicTrace:
    """A run with symbolic sizes, from which runs with other sizes are made.

    Rows of layers that are alike have the same name, shape, dtype, component and size: they are of one kind.
    """

    __slots__ = (
        "components",
        "dims",
        "dtypes",
        "kind_of",
        "names",
        "run",
        "shape_env",
        "shape_of",
        "shapes",
        "size_of",
        "sizes",
        "symbolic_dims",
        "symbolic_shapes",
    )

    def __init__(self, shape_env: ShapeEnv, run: Run) -> None:
        self.shape_env = shape_env
        shapes = [shape for _, shape, _, _, _ in run.tape.rows]
        dims = {id(dim): dim for shape in shapes for dim in shape}
        numbers = {identity: number for number, identity in enumerate(dims)}
        #: The dimensions of all shapes.
        self.dims = [*dims.values()]
        #: Those that are symbolic, by their index in `dims`.
        self.symbolic_dims = [(number, dim) for number, dim in enumerate(self.dims) if isinstance(dim, SymInt)]
        numbered = [tuple([numbers[id(dim)] for dim in shape]) for shape in shapes]
        distinct = {shape: number for number, shape in enumerate(dict.fromkeys(numbered))}
        kinds: dict[tuple[str, int, DType, ComponentName, int], int] = {}
        #: The kind of each row.
        self.kind_of = [
            kinds.setdefault((name, distinct[shape], dtype, component, shape_env.index(size)), len(kinds))
            for shape, (name, _, dtype, component, size) in zip(numbered, run.tape.rows, strict=True)
        ]
        #: By kind. `shape_of` indexes `shapes`, `size_of` the values of `shape_env`.
        self.names, self.shape_of, self.dtypes, self.components, self.size_of = zip(*kinds, strict=True)
        #: The distinct values of `size_of`, numbered.
        self.sizes = {index: number for number, index in enumerate(dict.fromkeys(self.size_of))}
        row_sizes = [self.sizes[self.size_of[kind]] for kind in self.kind_of]
        size_events = [row_sizes[event] if event >= 0 else ~row_sizes[~event] for event in run.tape.events]
        tape = _with_rows(run.tape, [*run.tape.events], [])
        self.run = run._replace(tape=tape, lifetimes=Lifetimes(tape.events, run.tape.rows, size_events), kept=None)
        #: The distinct shapes. Those with symbolic dimensions are evaluated for each run from `symbolic_shapes`, which
        #: has their index here and the indices of their dimensions.
        self.shapes = [tuple([self.dims[number] for number in shape]) for shape in distinct]
        symbolic = {number for number, _ in self.symbolic_dims}
        self.symbolic_shapes = [(number, shape) for shape, number in distinct.items() if not symbolic.isdisjoint(shape)]
        shape_env.eliminate_dead_code([*self.sizes, *[dim.index for _, dim in self.symbolic_dims]])

    def with_sizes(self, sizes: Sequence[int]) -> Run | None:
        """Return the run with other sizes, or None where a guard fails."""
        values = self.shape_env.evaluate(sizes)
        if values is None:
            return None
        dims, shapes = [*self.dims], [*self.shapes]
        for number, dim in self.symbolic_dims:
            dims[number] = dim.evaluate(values)
        for number, shape in self.symbolic_shapes:
            shapes[number] = tuple([dims[each] for each in shape])
        shape_of, bytes_of = map(shapes.__getitem__, self.shape_of), map(values.__getitem__, self.size_of)
        kinds = [*zip(self.names, shape_of, self.dtypes, self.components, bytes_of, strict=True)]
        rows = [*map(kinds.__getitem__, self.kind_of)]
        lifetimes = self.run.lifetimes.with_rows(rows, [values[index] for index in self.sizes])
        return self.run._replace(tape=_with_rows(self.run.tape, self.run.tape.events, rows), lifetimes=lifetimes)


def _with_rows(like: Tape, events: list[int], rows: list[Allocation]) -> Tape:
    """A tape with the events and marks of another, and with other rows."""
    tape = Tape()
    tape.rows, tape.events, tape.marks, tape.marked_rows = rows, events, like.marks, like.marked_rows
    return tape


class TraceCache:
    """The runs of requests that differ in sizes alone, for the last model and settings.

    The first request is interpreted. Its run is kept for others of the same sizes; other sizes are traced.
    """

    __slots__ = ("first", "model", "settings", "traces")

    def __init__(self) -> None:
        self.model: Model | None = None
        #: All settings of the method, the training, the card and the stack that are no sizes.
        self.settings: tuple[object, ...] = ()
        #: The first request's sizes and its run, by `whole` (the first layer is interpreted) and `reduces`.
        self.first: dict[tuple[bool, bool], tuple[list[int], Run]] = {}
        #: Traces, by the same.
        self.traces: dict[tuple[bool, bool], list[SymbolicTrace]] = {}

    def run_of(self, prepared: PreparedModel, *, whole: bool, reduces: bool = True) -> Run | None:
        """Return a request's run. None where the cache is full and no trace's guards hold."""
        method, training, kind = prepared.method, prepared.given, (whole, reduces)
        device = prepared.device
        shards = device.divided if device.sharding in SHARDS else device.sharding
        settings = (other_settings(method), other_settings(training), prepared.kernels, prepared.stack, shards)
        if prepared.model is not self.model or settings != self.settings:
            self.model, self.settings, self.first, self.traces = prepared.model, settings, {}, {}
        own = [*sizes(training), *sizes(method)]
        if kind not in self.first:
            run = interpreted(training_context(prepared, reduces=reduces), whole=whole)
            # The objects of a step that are freed from now on add events to its own tape, but not to the one kept.
            tape = _with_rows(run.tape, [*run.tape.events], run.tape.rows)
            lifetimes = copy(run.lifetimes)
            lifetimes.events = tape.events
            self.first[kind] = own, run._replace(tape=tape, lifetimes=lifetimes, kept=None)
        if own == self.first[kind][0]:
            return self.first[kind][1]
        traces = self.traces.setdefault(kind, [])
        traced = next(filter(None, (trace.with_sizes(own) for trace in traces)), None)
        if traced is None and len(traces) < MAX_TRACES:
            traces.append(_symbolic_trace(prepared, whole=whole, reduces=reduces))
            traced = traces[-1].with_sizes(own)
        return traced


def _symbolic_trace(prepared: PreparedModel, *, whole: bool, reduces: bool) -> SymbolicTrace:
    """Trace a request with symbolic sizes. A context allocates nothing before its step is interpreted."""
    shape_env = ShapeEnv()
    training = resized(prepared.given, shape_env.create_symint)
    method = resized(prepared.method, shape_env.create_symint)
    resized_model = PreparedModel(prepared.model, method, training, prepared.device, prepared.stack)
    context = training_context(resized_model, reduces=reduces)
    context.tape.sizes = SymSizes(shape_env)
    return SymbolicTrace(shape_env, interpreted(context, whole=whole))


class SymSizes(Sizes):
    """Bytes by shape and dtype, for shapes with symbolic dimensions.

    The keys contain the indices of dimensions: hashing the dimensions would guard on their values.
    """

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

    def indexed(self, row: Allocation) -> Allocation:
        """A row with the indices of its dimensions and of its bytes."""
        name, shape, dtype, component, size = row
        index = self.shape_env.index
        return name, tuple([index(dim) for dim in shape]), dtype, component, index(size)
