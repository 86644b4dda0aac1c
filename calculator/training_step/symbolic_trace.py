"""A symbolic trace of one micro-batch, replayed with other sizes while its guards hold."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated
from calculator.engine.kinds import Kinds, Storages, equal, firsts, kinds_of, numbered
from calculator.engine.symbolic_sizes import Digits, SymInt
from calculator.engine.tape import Sizes
from calculator.training_step.by_sizes import BySizes, settings_of
from calculator.training_step.run import Run, interpreted
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.engine.copies import Copies
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.engine.symbolic_sizes import ShapeEnv
    from calculator.engine.tape import Allocation
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.generation import PassPeak
    from calculator.training_step.run import Interpretation

#: The most patterns of equal dimensions, or of equal shapes, that a trace keeps.
MAX_PATTERNS = 64


class SymbolicTrace:
    """A run with symbolic sizes, from which runs with other sizes are made.

    Rows of layers that are alike have the same name, shape, dtype, component and size: they are of one kind. Kinds with
    different symbols can be equal for some sizes. What depends only on which shapes are equal is kept.
    """

    __slots__ = (
        "by_dims",
        "by_shapes",
        "dims",
        "interpretation",
        "kind_of",
        "kinds",
        "shape_env",
        "shape_of",
        "shapes",
        "size_of",
        "sizes",
    )

    def __init__(self, shape_env: ShapeEnv, interpretation: Interpretation) -> None:
        self.shape_env = shape_env
        self.interpretation = interpretation
        rows, interpretation.tape.rows = interpretation.tape.rows, []
        keys = SymSizes(shape_env).indexed_rows(rows)
        kinds, self.kind_of = kinds_of(keys, interpretation.first)
        #: The first row of each kind.
        self.kinds = [rows[row] for row in _first_rows(self.kind_of, interpretation.first)]
        #: The distinct shapes, as indices of values, and the shape of each kind.
        self.shapes, self.shape_of = numbered([shape for _, shape, _, _, _ in kinds])
        #: The distinct sizes, as indices of values, and the size of each kind.
        self.sizes, self.size_of = numbered([size for _, _, _, _, size in kinds])
        #: The indices of all dimensions.
        self.dims = [*dict.fromkeys(chain(*self.shapes))]
        #: What runs share, by which dimensions are equal, and by which shapes.
        self.by_dims: dict[tuple[int, ...], _Shared] = {}
        self.by_shapes: dict[tuple[int, ...], _Shared] = {}

    @property
    def outputs(self) -> list[int]:
        """The indices of the values that runs need."""
        return [*self.sizes, *self.dims]

    def with_sizes(self, sizes: Sequence[int]) -> Run | None:
        """Return the run with other sizes, or None where a guard fails."""
        values = self.shape_env.evaluate(sizes)
        return None if values is None else self.with_values(values)

    def with_values(self, values: Sequence[int]) -> Run:
        """Return the run in which the environment has these values."""
        key = equal([values[dim] for dim in self.dims])
        shared = self.by_dims.get(key)
        if shared is None:
            if len(self.by_dims) >= MAX_PATTERNS:
                self.by_dims.clear()
            shared = self.by_dims[key] = self._shared(values)
        bytes_of = [*map(values.__getitem__, self.sizes)]
        made = partial(self._allocation, shared, values, {})
        storages = Storages(shared.copies.kinds, bytes_of, made, partial(self._traced, shared), Digits(values))
        own = self.interpretation
        return Run(tape=own.tape, repetition=own.repetition, copies=shared.copies, storages=storages)

    def _shared(self, values: Sequence[int]) -> _Shared:
        """What runs share in which the same shapes are equal."""
        key = equal([tuple([values[dim] for dim in shape]) for shape in self.shapes])
        if key not in self.by_shapes:
            if len(self.by_shapes) >= MAX_PATTERNS:
                self.by_shapes.clear()
            self.by_shapes[key] = self._with_shapes(key)
        return self.by_shapes[key]

    def _with_shapes(self, shapes: Sequence[int]) -> _Shared:
        """Merge the kinds that are equal where shapes with the same number are."""
        found = [
            (name, (shapes[shape], dtype), component)
            for shape, (name, _, dtype, component, _) in zip(self.shape_of, self.kinds, strict=True)
        ]
        distinct, numbers = numbered(found)
        names, layouts, components = zip(*distinct, strict=True)
        first = firsts(numbers)
        size_of, of_row = [self.size_of[kind] for kind in first], [numbers[kind] for kind in self.kind_of]
        kinds = Kinds(names, layouts, components, size_of, of_row, self.interpretation.tape.events)
        copies = self.interpretation.with_kinds(kinds)
        return _Shared(copies=copies, kinds=first)

    def _traced(self, shared: _Shared, kind: int) -> Allocation:
        """A kind with its symbolic shape."""
        return self.kinds[shared.kinds[kind]]

    def _allocation(self, shared: _Shared, values: Sequence[int], own: dict[int, int], kind: int) -> Allocation:
        """A kind of a run. `own` has the run's dimensions that are known, by the identity of the symbolic ones."""
        first = shared.kinds[kind]
        name, shape, dtype, component, _ = self.kinds[first]
        dims = []
        for dim in shape:
            known = own.get(id(dim))
            if known is None:
                known = own[id(dim)] = dim.evaluate(values) if isinstance(dim, SymInt) else dim
            dims.append(known)
        return name, tuple(dims), dtype, component, values[self.sizes[self.size_of[first]]]


class _Shared(NamedTuple):
    """What runs share in which the same shapes are equal; `kinds` has the first of the trace's kinds that are equal."""

    copies: Copies
    kinds: Sequence[int]


def _first_rows(kind_of: Sequence[int], first: SkippedLayer | None) -> list[int]:
    """The first row of each kind; not the output of a first layer that is not interpreted."""
    own = [*range(len(kind_of))]
    if first is not None:
        own.append(own.pop(first.output_row))
    return [own[at] for at in firsts([kind_of[row] for row in own])]


class TraceCache:
    """The runs of requests that differ in sizes alone, for the last model and settings."""

    __slots__ = ("_of_first", "generation", "model", "runs", "settings")

    def __init__(self) -> None:
        self.model: Model | None = None
        #: All settings of the method, the training, the card and the stack that are no sizes.
        self.settings: tuple[object, ...] = ()
        #: The runs, by `whole` (the first layer is interpreted) and `reduces`.
        self.runs: defaultdict[tuple[bool, bool], BySizes[Run]] = defaultdict(BySizes)
        #: The passes in which the trainer generates.
        self.generation: BySizes[tuple[PassPeak, ...]] = BySizes()
        self._of_first: TraceCache | None = None

    @property
    def of_first(self) -> TraceCache:
        """The runs of the same requests' first micro-batches, where these are not like the others."""
        if self._of_first is None:
            self._of_first = TraceCache()
        return self._of_first

    def run_of(self, prepared: PreparedModel, *, whole: bool, reduces: bool = True) -> Run | None:
        """Return a request's run. None where the cache is full and no trace's guards hold."""
        self._serve(prepared)

        def plain(prepared: PreparedModel) -> Run:
            return interpreted(training_context(prepared, reduces=reduces), whole=whole).run()

        def traced(shape_env: ShapeEnv, symbolic: PreparedModel) -> SymbolicTrace:
            # A context allocates nothing before its step is interpreted.
            context = training_context(symbolic, reduces=reduces)
            context.tape.sizes = SymSizes(shape_env)
            trace = SymbolicTrace(shape_env, interpreted(context, whole=whole))
            shape_env.eliminate_dead_code(trace.outputs)
            return trace

        return self.runs[whole, reduces].of(prepared, plain, traced)

    def generation_of(self, prepared: PreparedModel) -> BySizes[tuple[PassPeak, ...]]:
        """Return the passes of requests like this one in which the trainer generates."""
        self._serve(prepared)
        return self.generation

    def _serve(self, prepared: PreparedModel) -> None:
        """Forget what was kept for other models and settings than a request's."""
        settings = settings_of(prepared)
        if prepared.model is not self.model or settings != self.settings:
            self.model, self.settings = prepared.model, settings
            self.runs.clear()
            self.generation = BySizes()


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

    def indexed_rows(self, rows: Sequence[Allocation]) -> list[Allocation]:
        """Rows with indices. Iterations of a loop have the same rows (loops.py)."""
        same = {id(row): row for row in rows}
        indexed = {key: self.indexed(row) for key, row in same.items()}
        return [indexed[id(row)] for row in rows]
