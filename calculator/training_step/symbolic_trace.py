"""A symbolic trace of one micro-batch, replayed with other sizes while its guards hold."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from itertools import chain, combinations
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.kinds import Kinds, Storages, equal, first_rows, firsts, kinds_of, numbered
from calculator.engine.sym_sizes import SymSizes
from calculator.engine.symbolic_sizes import Digits, SymInt
from calculator.training_step.run import Run, interpreted
from calculator.training_step.size_cache import SizeCache, settings_of
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.copies import Copies
    from calculator.engine.kinds import Key
    from calculator.engine.symbolic_sizes import ShapeEnv
    from calculator.engine.tape import Allocation
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel
    from calculator.training_step.run import Interpretation
    from calculator.training_step.step_pass import StepPass

#: The maximum number of patterns of equal shapes for which a trace caches what runs share.
MAX_PATTERNS = 64


class SymbolicTrace:
    """A run with symbolic sizes, from which runs with other sizes are built.

    Rows of layers that are equal have the same name, shape, dtype, component and size: they are of one kind. Kinds with
    different symbols can be equal for some sizes. What runs share depends on which kinds are equal. If layouts are
    compared, it also depends on which other shapes are equal.
    """

    __slots__ = (
        "_first_rows",
        "_rows",
        "components",
        "dtypes",
        "interpretation",
        "kind_of",
        "known",
        "meeting",
        "names",
        "shape_env",
        "shape_of",
        "shapes",
        "size_of",
        "sizes",
    )

    def __init__(self, symbols: SymSizes, interpretation: Interpretation) -> None:
        self.shape_env = symbols.shape_env
        self.interpretation = interpretation
        self._rows, interpretation.tape.rows = interpretation.tape.rows, []
        #: The first row of each kind. None until it is read.
        self._first_rows: Sequence[int] | None = None
        kinds, self.kind_of = kinds_of(symbols.kinds(self._rows), interpretation.first, interpretation.outputs)
        self.names, self.shape_of, self.dtypes, self.components = zip(*kinds, strict=True)
        #: The distinct shapes, as indices of values. `shape_of` has the number of each kind's shape.
        self.shapes = symbols.shapes
        #: The distinct sizes, as indices of values, and the number of each kind's size.
        layouts = [*zip(self.shape_of, self.dtypes, strict=True)]
        self.sizes, self.size_of = symbols.numbered_sizes(layouts)
        #: Pairs of shapes of kinds with the same name, dtype and component. The kinds are equal if the shapes are.
        self.meeting = [*self._comparable_shapes()]
        #: What runs share, by the pairs of shapes that are equal, or by all equal shapes if layouts are compared.
        self.known: dict[tuple[object, ...], _Shared] = {}

    @property
    def outputs(self) -> list[int]:
        """The indices of the values that runs need."""
        return [*self.sizes, *chain(*self.shapes)]

    def with_sizes(self, sizes: Sequence[int]) -> Run | None:
        """Return the run with other sizes, or None if a guard fails."""
        values = self.shape_env.evaluate(sizes)
        return None if values is None else self.with_values(values)

    def with_values(self, values: Sequence[int]) -> Run:
        """Return the run in which the environment has these values."""
        shared = self._shared(values)
        bytes_of = [*map(values.__getitem__, self.sizes)]
        allocation = partial(self._allocation, shared, values, {})
        storages = Storages(shared.copies.kinds, bytes_of, allocation, partial(self._traced, shared), Digits(values))
        return self.interpretation.run_of(shared.copies, storages)

    def _comparable_shapes(self) -> Iterator[tuple[int, int]]:
        """Yield the pairs of shapes that kinds with the same name, dtype and component have, and that can be equal."""
        keys = [*zip(self.names, self.dtypes, self.components, strict=True)]
        last: dict[object, int] = dict(zip(keys, self.shape_of, strict=True))
        if len(last) == len(keys):
            return
        shapes: dict[object, list[int]] = {}
        for key, shape in zip(keys, self.shape_of, strict=True):
            if last[key] != shape:
                shapes.setdefault(key, []).append(shape)
        several = [[*others, last[key]] for key, others in shapes.items()]
        for pair in dict.fromkeys(pair for numbers in several for pair in combinations(numbers, 2)):
            if self.shape_env.can_be_equal(*[self.shapes[shape] for shape in pair]):
                yield pair

    def _shared(self, values: Sequence[int]) -> _Shared:
        """Return the state that runs share if the same kinds are equal in them."""
        shapes = self.shapes
        equal_pairs = tuple(
            [
                pair
                for pair in self.meeting
                if [values[dim] for dim in shapes[pair[0]]] == [values[dim] for dim in shapes[pair[1]]]
            ]
        )
        key: tuple[object, ...] = equal_pairs
        cached = self.known.get(key)
        if cached is not None and cached.copies.compares_layouts:
            key = self._equal_shapes(values)
            cached = self.known.get(key)
        if cached is None:
            if len(self.known) >= MAX_PATTERNS:
                self.known.clear()
            equal_shapes = self._equal_shapes(values)
            cached = self._merged(equal_shapes) if equal_pairs else self._separate(equal_shapes)
            self.known[equal_pairs] = cached
            if cached.copies.compares_layouts:
                self.known[equal_shapes] = cached
        return cached

    def _equal_shapes(self, values: Sequence[int]) -> tuple[int, ...]:
        """Return a number for each shape. Shapes that are equal in a run have equal numbers."""
        return equal([tuple([values[dim] for dim in shape]) for shape in self.shapes])

    def _separate(self, shapes: Sequence[int]) -> _Shared:
        """Return the shared state of runs in which no two kinds are equal. Shapes with the same number are equal."""
        formulas = [*zip(self.shape_of, self.dtypes, strict=True)]
        kinds = Kinds([*self._keys(shapes)], self.size_of, self.kind_of, self.interpretation.tape.events, formulas)
        return _Shared(self.interpretation.with_kinds(kinds), range(len(kinds.keys)))

    def _merged(self, shapes: Sequence[int]) -> _Shared:
        """Return the shared state of runs in which kinds are equal if their shapes have the same number."""
        keys, numbers = numbered(self._keys(shapes))
        first = firsts(numbers)
        kinds = Kinds(
            keys,
            [self.size_of[kind] for kind in first],
            [numbers[kind] for kind in self.kind_of],
            self.interpretation.tape.events,
            (),
        )
        return _Shared(self.interpretation.with_kinds(kinds), first)

    def _keys(self, shapes: Sequence[int]) -> Iterator[Key]:
        """Return the keys of the trace's kinds, with numbers in place of shapes."""
        return zip(self.names, map(shapes.__getitem__, self.shape_of), self.dtypes, self.components, strict=True)

    def _row(self, kind: int) -> Allocation:
        """Return the first row of a kind, with its symbolic shape and without a size."""
        if self._first_rows is None:
            self._first_rows = first_rows(self.kind_of, self.interpretation.first)
        return self._rows[self._first_rows[kind]]

    def _traced(self, shared: _Shared, kind: int) -> Allocation:
        """Return a kind with its symbolic shape, and the size that it has in the trace."""
        first = shared.kinds[kind]
        name, shape, dtype, component, _ = self._row(first)
        return name, shape, dtype, component, self.shape_env.values[self.sizes[self.size_of[first]]]

    def _allocation(self, shared: _Shared, values: Sequence[int], evaluated: dict[int, int], kind: int) -> Allocation:
        """Return a kind with its shape in a run.

        `evaluated` caches the run's dimensions by the identity of the symbolic ones.
        """
        first = shared.kinds[kind]
        name, shape, dtype, component, _ = self._row(first)
        dims = []
        for dim in shape:
            dimension = evaluated.get(id(dim))
            if dimension is None:
                dimension = evaluated[id(dim)] = dim.evaluate(values) if isinstance(dim, SymInt) else dim
            dims.append(dimension)
        return name, tuple(dims), dtype, component, values[self.sizes[self.size_of[first]]]


class _Shared(NamedTuple):
    """Results shared by runs in which the same shapes are equal.

    `kinds` has, for each kind of a run, the first kind of the trace that is equal to it.
    """

    copies: Copies
    kinds: Sequence[int]


class TraceCache:
    """The runs of requests that differ in sizes alone, for the most recent model and settings."""

    __slots__ = ("_first_batch_traces", "_served", "generation", "runs", "settings", "traces_first")

    def __init__(self, *, traces_first: bool = False) -> None:
        #: Whether the first request is traced too.
        self.traces_first = traces_first
        #: The last request.
        self._served: PreparedModel | None = None
        #: All its settings of the method, the training, the GPU and the stack that are not sizes. None until the next
        #: request.
        self.settings: tuple[object, ...] | None = None
        #: The runs, by `whole` (whether the first layer is interpreted), `every_pass` and `reduces`.
        self.runs: defaultdict[tuple[bool, bool, bool], SizeCache[Run]] = defaultdict(
            partial(SizeCache, traces_first=traces_first)
        )
        #: The passes in which the trainer generates completions.
        self.generation: SizeCache[tuple[StepPass, ...]] = SizeCache(traces_first=traces_first)
        self._first_batch_traces: TraceCache | None = None

    @property
    def first_batch_cache(self) -> TraceCache:
        """The runs of the first micro-batches of the same requests, if these differ from the others."""
        if self._first_batch_traces is None:
            self._first_batch_traces = TraceCache(traces_first=self.traces_first)
        return self._first_batch_traces

    def run_of(self, prepared: PreparedModel, *, whole: bool, every_pass: bool, reduces: bool = True) -> Run | None:
        """Return the run of a request, or None if no trace's guards hold and the cache is full."""
        self._serve(prepared)

        def plain(prepared: PreparedModel) -> Run:
            context_of = partial(training_context, prepared, reduces=reduces)
            return interpreted(context_of(), whole=whole, every_pass=every_pass, another=context_of).run()

        def traced(shape_env: ShapeEnv, symbolic: PreparedModel) -> SymbolicTrace:
            symbols = SymSizes(shape_env)

            def context_of() -> Context:
                # A context allocates nothing before its step is interpreted.
                context = training_context(symbolic, reduces=reduces)
                context.tape.sizes = symbols
                return context

            ran = interpreted(context_of(), whole=whole, every_pass=every_pass, another=context_of)
            trace = SymbolicTrace(symbols, ran)
            shape_env.eliminate_dead_code(trace.outputs)
            return trace

        return self.runs[whole, every_pass, reduces].result(prepared, plain, traced)

    def generation_of(self, prepared: PreparedModel) -> SizeCache[tuple[StepPass, ...]]:
        """Return the passes in which the trainer generates, for requests like this one."""
        self._serve(prepared)
        return self.generation

    def _serve(self, prepared: PreparedModel) -> None:
        """Clear the cache if a request has another model or other settings."""
        before, self._served = self._served, prepared
        if before is None or before is prepared:
            return
        known, self.settings = self.settings or settings_of(before), settings_of(prepared)
        if prepared.model is not before.model or self.settings != known:
            self.runs.clear()
            self.generation = SizeCache(traces_first=self.traces_first)
