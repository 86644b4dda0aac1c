"""The trained pass's layer, which a pass of `generate` runs with other sizes.

It is the layer of Llama: attention and a gated MLP, each after a norm. With half precision, without a mask, without
quantized weights and with sdpa, it runs the same operations on any number of sequences and tokens. A checkpointed layer
that frees all but its output, and allocates nothing for a graph, has the same events without one. What differs is the
cache: the layer's keys and values are appended to those of earlier tokens, and the copies are kept. Only the layer's
variables refer to its own keys and values, so they are freed then.

Each tensor of the layer has a number for each sequence and each token, except the generator's state.
"""

from __future__ import annotations

from operator import invert
from typing import TYPE_CHECKING, NamedTuple

from calculator.architecture.dimension import Dim
from calculator.engine.tape import Sizes, Tensor
from calculator.layers.decoder_layer import SequentialLayer
from calculator.methods.full.method import Full
from calculator.methods.low_rank.method import LowRank
from calculator.training_step.earlier_tokens import EarlierTokens
from calculator.training_step.recorded_layers import Left, RecordedLayer, RecordedLayers, again

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.layers.context import Context, NotedUpdate
    from calculator.methods.prepared_model import PreparedModel

#: The names of the numbers of sequences and of tokens of a micro-batch.
_BATCH, _LENGTH = "B", "S"
_LLAMA = SequentialLayer()


class TrainedLayer(NamedTuple):
    """A recorded layer, which began after `start` events, where it would update a cache, and its number of tokens."""

    recorded: RecordedLayer
    update: NotedUpdate
    start: int
    length: int


def may_be_resized(context: Context, prepared: PreparedModel) -> bool:
    """Return whether passes of `generate` may run the trained pass's layer with other sizes.

    `context` is that of the trained pass.
    """
    training, trainer = context.training, prepared.trainer
    if not trainer.facts.generates or trainer.generation(training) is None or context.tape.sizes.__class__ is not Sizes:
        return False
    if prepared.recorded_passes.are_replayed:
        return False  # the order of frees may differ
    if not isinstance(prepared.method, Full | LowRank) or context.forward.layer != _LLAMA:
        return False
    if training.attention != "sdpa" or training.autocast is not None:
        return False
    if prepared.hidden_dtype == "float32" or training.padding or training.use_liger_kernel or context.older:
        return False
    return not any(spec.quantization for spec in prepared.module_specs.values())


def noted(recorded: RecordedLayer, updates: Sequence[NotedUpdate], start: int) -> TrainedLayer | None:
    """Return a layer that passes of `generate` may run, or None if it is not certain that they can.

    The layer began after `start` events.
    """
    if len(updates) != 1 or updates[0].has_mask or recorded.trains is not None:
        return None
    _, shapes, dtypes, _, _ = zip(*recorded.rows, strict=True)
    length = updates[0].layouts[0][0][2]
    others = [shape for shape in shapes if not _has_place(shape, -2)]
    if not all(_has_place(shape, -1) or (len(shape) == 1 and not isinstance(shape[0], Dim)) for shape in others):
        return None
    distinct = {*zip(shapes, dtypes, strict=True)}
    if any(shape.count(length) > 1 for shape, _ in distinct):
        return None
    return TrainedLayer(recorded, updates[0], start, length)


def _has_place(shape: Shape, place: int) -> bool:
    """Return whether a shape has the number of sequences in the first place, and that of tokens in another one."""
    if len(shape) < 3:
        return False
    rows, tokens = shape[0], shape[place]
    return isinstance(rows, Dim) and rows.is_named(_BATCH) and isinstance(tokens, Dim) and tokens.is_named(_LENGTH)


class ResizedLayers(RecordedLayers):
    """The layers of a pass of `generate` that are the trained pass's layer with other sizes."""

    __slots__ = ("_resized", "_trained")

    def __init__(self, layer: Callable[[Context, int, Tensor], Tensor], trained: TrainedLayer) -> None:
        super().__init__(layer, {})
        self._trained = trained
        self._resized: RecordedLayer | None = None

    def run(self, context: Context, position: int, x: Tensor) -> Tensor:  # noqa: ARG002  the layers are alike
        """Record the layer's events. Return its output."""
        assert isinstance(context.cache, EarlierTokens)
        if self._resized is None:
            self._resized = _resized(context, self._trained)
        (keys, values), *_ = self._resized.kept
        context.cache.shape_earlier((keys.shape, keys.dtype), (values.shape, values.dtype))
        return again(context, self._resized)


def _resized(context: Context, trained: TrainedLayer) -> RecordedLayer:
    """Return the layer with the sizes of a pass that appends its keys and values to a cache."""
    known, update, tape, cache = trained.recorded, trained.update, context.tape, context.cache
    assert cache is not None
    shapes = {layout: _shape(context, layout[0], trained.length) for layout in {row[1:3] for row in known.rows}}
    sizes = {layout: tape.sizes[shape, layout[1]] for layout, shape in shapes.items()}
    rows = [
        (name, shapes[shape, dtype], dtype, component, sizes[shape, dtype])
        for name, shape, dtype, component, _ in known.rows
    ]
    place = update.position - trained.start
    before, after = known.events[:place], known.events[place:]
    cached = next((event for event in after if event >= 0), known.first + len(rows))
    kept = []
    for number, ((shape, dtype), name) in enumerate(zip(update.layouts, ("key, cached", "value, cached"), strict=True)):
        own = _shape(context, shape, trained.length)
        whole = (*own[:2], own[2] + context.past, *own[3:])
        row = (f"{update.scope}{name}", whole, dtype, cache.component, tape.sizes[whole, dtype])
        rows.insert(cached - known.first + number, row)
        kept.append(Left(cached + number, whole, dtype, merged=False))
    earlier = known.first - 2, known.first - 1
    freed = [*map(invert, update.rows)]
    events = [*before, cached, ~earlier[0], cached + 1, ~earlier[1], *freed]
    for event in after:
        if event >= cached:
            events.append(event + 2)
        elif event < -cached:
            events.append(event - 2)
        elif event not in freed:
            events.append(event)
    output = known.output._replace(row=known.output.row + 2, shape=_shape(context, known.output.shape, trained.length))
    return known._replace(rows=rows, events=events, pairs=1, before=earlier, output=output, kept=[kept])


def _shape(context: Context, shape: Shape, length: int) -> Shape:
    """Return a shape with the sequences and tokens of a pass, in place of a batch with `length` tokens."""
    if len(shape) < 3:
        return shape
    place = shape.index(length)
    return (context.batch, *shape[1:place], context.length, *shape[place + 1 :])
