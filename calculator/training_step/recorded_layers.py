"""Layers of a no-grad pass that are recorded again. Layers that are equal have the same events.

Such a layer frees everything that it allocates, except its output, the entries that it adds to the cache, and
autocast's copies of its weights. Of other tensors, it only frees the cache entries that it replaces. The decoder still
refers to its input.
"""

from __future__ import annotations

from bisect import bisect_left
from operator import invert
from typing import TYPE_CHECKING, NamedTuple

from calculator.engine.recorded_passes import another
from calculator.engine.tape import LeafTensor, Storage, Tensor
from calculator.layers.sharding_hooks import NO_HOOKS
from calculator.methods.compared import is_like_second
from calculator.trainers import trainer_of
from calculator.training_step.shared_layers import layers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.tape import Allocation
    from calculator.layers.cache import Cache
    from calculator.layers.context import Context
    from calculator.methods.prepared_model import PreparedModel


class _Left(NamedTuple):
    """A tensor that a layer leaves alive."""

    row: int
    shape: Shape
    dtype: DType
    merged: bool


class RecordedLayer(NamedTuple):
    """The rows and the events of a layer, and the tensors that it leaves alive.

    Attributes:
        first: The number of its first row.
        pairs: The number of (key, value) pairs that it takes from the cache.
        before: The rows of these pairs.
        kept: The tuples of tensors that it adds to the cache.
        windows: The windows that it adds to the cache.
        copies: The copies that it adds to autocast's cache.
        component: The component of the code around it. It is compared by identity.
        trains: Whether the model trained, or None if the layer does not depend on that.
    """

    first: int
    rows: Sequence[Allocation]
    events: Sequence[int]
    pairs: int
    before: Sequence[int]
    output: _Left
    kept: Sequence[Sequence[_Left]]
    windows: Sequence[_Left]
    copies: Sequence[_Left]
    component: ComponentName
    trains: bool | None


class _State(NamedTuple):
    """The counts of everything recorded before a layer runs, and the rows of each pair in the cache."""

    rows: int
    events: int
    marks: int
    loops: int
    copies: int
    kept: int
    windows: int
    before: Sequence[Sequence[int]]


class RecordedLayers:
    """The layers of a pass that have run, by layer class (see `layer_classes`) and input dtype."""

    __slots__ = ("_known", "_layer", "has_unknown_layers")

    def __init__(
        self, layer: Callable[[Context, int, Tensor], Tensor], known: dict[Hashable, RecordedLayer | None]
    ) -> None:
        self._layer = layer
        #: Whether a layer has run that cannot be recorded again.
        self.has_unknown_layers = False
        self._known = known

    @classmethod
    def from_context(cls, context: Context, layer: Callable[[Context, int, Tensor], Tensor]) -> RecordedLayers | None:
        """Return the known layers of a pass, or None if its layers cannot be recorded again.

        That is so if the pass has a graph, or if its layers depend on more than their inputs (see `can_be_recorded`).
        `layer` runs a layer.
        """
        if context.tape.grad_enabled:
            return TrainedLayers(layer, layers_of(context)) if _run_again(context) else None
        return cls(layer, layers_of(context)) if can_be_recorded(context) else None

    def run(self, context: Context, position: int, x: Tensor) -> Tensor:
        """Run the layer at a position, or record its events again. Return its output."""
        if not _may_be_recorded(x):
            self.has_unknown_layers = True
            return self._layer(context, position, x)
        key = context.classes[context.repetition.numbers[position]], x.dtype, x.merged
        known, tape = self._known.get(key), context.tape
        if known is not None and (known.trains is None or known.trains == tape.trains):
            return record_again(context, known)
        if key in self._known and known is None:
            self.has_unknown_layers = True
            return self._layer(context, position, x)
        state, tape.reads_trains = state_of(context), False
        out = self._layer(context, position, x)
        self._known[key] = recorded(context, state, out)
        self.has_unknown_layers = self.has_unknown_layers or self._known[key] is None
        return out


class TrainedLayers(RecordedLayers):
    """The checkpointed layers of a trained pass, which a second model under no_grad runs again."""

    __slots__ = ()

    def run(self, context: Context, position: int, x: Tensor) -> Tensor:
        """Run the layer at a position, and record its events. Return its output."""
        key, tape = (context.classes[context.repetition.numbers[position]], x.dtype, x.merged), context.tape
        if key in self._known or x.__class__ is not Tensor or x.storage is None:
            return self._layer(context, position, x)
        state, outer = state_of(context), tape.component
        # Rows that inherit the component are recognized by the identity of this string.
        tape.component = inherits = another(outer)
        tape.reads_trains = tape.reads_graph = False
        out = self._layer(context, position, x)
        known = None if tape.reads_graph else recorded(context, state, out, has_graph=True)
        if tape.component is inherits:
            tape.component = outer
        if known is not None:
            self._known[key] = known
        return out


def _may_be_recorded(x: Tensor) -> bool:
    """Return whether a layer with an input under no_grad may be recorded again.

    Only autocast tells an input that requires a gradient from others, because it may cache a copy of it.
    """
    is_plain = x.__class__ is Tensor or (x.__class__ is LeafTensor and x.tape.autocast is None)
    return is_plain and x.storage is not None


def _run_again(context: Context) -> bool:
    """Return whether a no-grad pass runs the checkpointed layers of a trained pass again.

    Saving tensors changes the order in which some are freed together, on which a replay depends.
    """
    trainer, training = trainer_of(context.training), context.training
    if not trainer.facts.compares or not training.gradient_checkpointing or context.unrolls:
        return False
    if training.use_liger_kernel or context.is_reentrant or not can_be_recorded(context):
        return False
    prepared: PreparedModel = context.prepared  # type: ignore[assignment]  # a step's model is prepared
    if prepared.recorded_passes.are_replayed or trainer.runs_to_score(prepared):
        return False
    return trainer.compared(prepared) == "model" and is_like_second(prepared)


def can_be_recorded(context: Context) -> bool:
    """Return whether no sharding takes part in a pass, and its method does not couple layers."""
    if context.tape.calls_modules or context.hooks is not NO_HOOKS or context.layer_loop is not None:
        return False
    return not context.method.couples_layers


def state_of(context: Context) -> _State:
    """Return the counts of everything recorded so far."""
    tape, cache = context.tape, context.cache
    return _State(
        rows=len(tape.rows),
        events=len(tape.events),
        marks=len(tape.marks),
        loops=len(tape.loops),
        copies=0 if tape.autocast is None else len(tape.autocast.copies),
        kept=0 if cache is None else len(cache.kept),
        windows=0 if cache is None else len(cache.windows),
        before=[] if cache is None else [[*_rows(pair)] for pair in cache.before],
    )


def recorded(context: Context, state: _State, out: Tensor, *, has_graph: bool = False) -> RecordedLayer | None:
    """Return the layer that ran since a state, or None if it left or freed a tensor that a known layer may not."""
    tape, cache, first = context.tape, context.cache, state.rows
    if len(tape.marks) != state.marks or len(tape.loops) != state.loops:
        return None
    kept, windows = ([], []) if cache is None else (cache.kept[state.kept :], cache.windows[state.windows :])
    copies = [] if tape.autocast is None else [*tape.autocast.copies.values()][state.copies :]
    pairs = 0 if cache is None else len(state.before) - len(cache.before)
    before = [row for pair in state.before[:pairs] for row in pair]
    events = tape.events[state.events :]
    left = [out, *windows, *copies, *(tensor for entry in kept for tensor in entry)]
    rows = {tensor.storage.row if tensor.storage is not None else -1 for tensor in left}
    if any(tensor.__class__ is not Tensor or tensor.viewed or (tensor.edge and not has_graph) for tensor in left):
        return None
    # In order, these are the frees of the layer's own rows, those of earlier rows, and the allocations.
    ordered = sorted(events)
    own, earlier = bisect_left(ordered, -first), bisect_left(ordered, 0)
    if ordered[own:earlier] != sorted({*map(invert, before)}) or len(ordered) - earlier - own != len(rows):
        return None
    if min(rows) < first:
        return None
    return RecordedLayer(
        first=first,
        rows=tape.rows[first:],
        events=events,
        pairs=pairs,
        before=before,
        output=_describe(out),
        kept=[[*map(_describe, entry)] for entry in kept],
        windows=[*map(_describe, windows)],
        copies=[*map(_describe, copies)],
        component=tape.component,
        trains=tape.trains if tape.reads_trains else None,
    )


def leaves_its_output(state: _State, out: Tensor) -> bool:
    """Return whether a layer that ran since a state left its output alone, and freed nothing from before it.

    The layer uses no cache, and no autocast.
    """
    tape, first = out.tape, state.rows
    if len(tape.marks) != state.marks or len(tape.loops) != state.loops:
        return False
    if out.__class__ is not Tensor or out.viewed or out.storage is None or out.storage.row < first:
        return False
    # In order, these are the frees of the layer's own rows, those of earlier rows, and the allocations.
    ordered = sorted(tape.events[state.events :])
    own, earlier = bisect_left(ordered, -first), bisect_left(ordered, 0)
    return own == earlier and len(ordered) - 2 * own == 1


def record_again(context: Context, known: RecordedLayer) -> Tensor:
    """Record a known layer again. Return its output."""
    tape, cache = context.tape, context.cache
    ahead = len(tape.rows) - known.first
    tape.rows += known.rows if tape.component is known.component else _counted_to(tape.component, known)
    if cache is not None and known.before:
        numbers = dict(zip(map(invert, known.before), map(invert, _take_pairs(cache, known.pairs)), strict=True))
        tape.events += [event + ahead if event >= 0 else numbers.get(event, event - ahead) for event in known.events]
    else:
        tape.events += [event + ahead if event >= 0 else event - ahead for event in known.events]
    storages: dict[int, Storage] = {}

    def rebuild(left: _Left) -> Tensor:
        storage = storages.get(left.row)
        if storage is None:
            storage = storages[left.row] = Storage.from_row(left.row + ahead, tape.events)
        tensor = Tensor(tape, storage, left.shape, left.dtype, None)
        tensor.merged = left.merged
        return tensor

    if cache is not None:
        cache.kept += [tuple(map(rebuild, entry)) for entry in known.kept]
        cache.windows += map(rebuild, known.windows)
    if tape.autocast is not None:
        tape.autocast.copies.update({object(): rebuild(left) for left in known.copies})
    return rebuild(known.output)


def _counted_to(own: ComponentName, known: RecordedLayer) -> Iterator[Allocation]:
    """Return the rows of a layer in code of another component."""
    names, shapes, dtypes, components, sizes = zip(*known.rows, strict=True)
    counted = [own if component is known.component else component for component in components]
    return zip(names, shapes, dtypes, counted, sizes, strict=True)


def _take_pairs(cache: Cache, pairs: int) -> Sequence[int]:
    """Take pairs from the cache, and return their rows.

    Their frees are recorded with the layer's events.
    """
    own_pairs, cache.before = cache.before[:pairs], cache.before[pairs:]
    rows = [row for pair in own_pairs for row in _rows(pair)]
    for tensor in [tensor for pair in own_pairs for tensor in pair]:
        if tensor is not None and tensor.storage is not None:
            tensor.storage.events = []
    return rows


def _rows(pair: Iterable[Tensor | None]) -> Iterator[int]:
    for tensor in pair:
        if tensor is not None and tensor.storage is not None:
            yield tensor.storage.row


def _describe(tensor: Tensor) -> _Left:
    assert tensor.storage is not None
    return _Left(tensor.storage.row, tensor.shape, tensor.dtype, tensor.merged)
