"""The cache that a prefix fills before the layers run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.repetition import NOT_RUN
from calculator.layers import masks
from calculator.layers.cache import Cache

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def fill_cache(context: Context, layers: list[list[Tensor]], length: Dim) -> None:
    """Copy a prefix's keys and values into the cache, for every layer.

    `layers` are the keys and values of the interpreted layers. Those of the other layers are dropped when the layer
    begins that represents them, because the last layer keeps no other layer's.
    """
    context.past = length
    component = context.cache.component if context.cache is not None else "activations"
    cut = context.method.cuts_prefix_to_windows(context.model)
    pairs = [[ops.cat((t,), t.shape, "prefix, cached") for t in pair] for pair in layers]
    windows = masks.window_tensors(context) if cut else None
    context.cache = Cache(pairs, windowed=cut, given=windows, component=component)
    if cut:
        _cut(context, context.cache)
    skipped, like, name = len(context.layers) - len(layers), layers[0][0], f"prefix, cached, {NOT_RUN}"
    context.skipped_layer_tensors = [context.tape.new(like.shape, like.dtype, name) for _ in range(2 * skipped)]


def _cut(context: Context, cache: Cache) -> None:
    """Cut a prefix to the window in sliding layers.

    The cut is a slice from the end, even if it is the whole prefix.

    Source: transformers.cache_utils.DynamicSlidingWindowLayer.update.
    """
    length = masks.cached_tokens(context, "sliding_attention")
    for number, pair in zip(context.repetition.numbers, cache.before, strict=True):
        if context.layers[number].kind.attention == "sliding_attention":
            pair[:] = [t and ops.slice_from_end(t, (*t.shape[:2], length, t.shape[3])) for t in pair]
