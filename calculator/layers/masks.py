"""The attention masks, each shared by all layers of an attention type. Source: transformers/masking_utils.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import ATTENTION_TYPES
from calculator.engine.operations import broadcast_shapes

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.layer_kind import AttentionType
    from calculator.architecture.model import Layer
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def attention_types(layers: Iterable[Layer]) -> set[AttentionType]:
    """Return the attention types of layers, many of which are the same object."""
    return {layer.kind.attention for layer in set(layers)}


def window_tensors(context: Context) -> list[Tensor]:
    """Each window's size, which a cache holds as a tensor (transformers.cache_utils.DynamicSlidingWindowLayer)."""
    context.set_scope("cache: ")
    sliding = sum(
        count for layer, count in context.model.decoder.distinct if layer.kind.attention == "sliding_attention"
    )
    return [context.tape.new((), "int64", "window") for _ in range(sliding)]


def by_attention_type(context: Context) -> dict[AttentionType, Tensor | None]:
    """The mask of each attention type that the family makes one for, full ones first."""
    context.set_scope("model.attention mask: ")
    kinds = {*context.forward.masks, *attention_types(context.layers)}
    transform = context.forward.transform_mask
    return {kind: transform(context, _mask(context, kind)) for kind in ATTENTION_TYPES if kind in kinds}


def sliding_masks_differ(context: Context) -> bool:
    """Whether layers with a window get a mask where those without get none, or a prefix is cut for them alone.

    Source: transformers/masking_utils.py, _ignore_causal_mask_sdpa.
    """
    if context.method.cut_to_windows(context.model):
        return True
    return (
        context.attention == "sdpa" and not _needed(context, "full_attention") and _needed(context, "sliding_attention")
    )


def cached_tokens(context: Context, kind: AttentionType) -> int:
    """How many tokens before this pass's a layer of an attention type has keys of: any layer, where none is of it."""
    window, kinds = context.config.get("sliding_window"), attention_types(context.layers)
    if (
        (kind if kind in kinds else kinds.pop()) == "full_attention"
        or context.cache is None
        or not context.cache.windowed
        or window is None
    ):
        return context.past
    return context.past if context.past < window else window - 1


def _needed(context: Context, kind: AttentionType) -> bool:
    """Whether sdpa needs the mask as a tensor: one query alone sees every key, and is_causal looks one way only."""
    both_ways = context.forward.bidirectional_masks and context.config["use_bidirectional_attention"]
    beyond = context.past and context.length > 1
    if context.training.padding or beyond or context.forward.always_masked or both_ways:
        return True
    window = context.config.get("sliding_window")
    tokens = context.training.sequence_length + context.method.virtual_tokens if context.length > 1 else context.length
    return kind == "sliding_attention" and window is not None and cached_tokens(context, kind) + tokens >= window


def _mask(context: Context, kind: AttentionType) -> Tensor | None:
    """A boolean mask for sdpa where one is needed, a float one for eager, none where the kernel knows best."""
    if context.attention == "eager":
        return _additive(context, kind)
    return _boolean(context, kind) if context.attention == "sdpa" and _needed(context, kind) else None


def _boolean(context: Context, kind: AttentionType) -> Tensor:
    """(batch, 1, sequence, sequence): causal, within the window, and not padding; one for all without padding."""
    tape, batch, length = context.tape, context.batch, context.length
    width = length + cached_tokens(context, kind)
    mask = tape.new((1, length, width), "bool", "causal")
    if kind == "sliding_attention":
        mask = _and(mask, mask, "in the window")
        mask = _and(mask, tape.new((1, length, width), "bool", "causal"), "causal and in the window")
    if context.training.padding:
        mask = _and(mask, mask, "where queries look")
        mask = _and(mask, tape.new((batch, 1, width), "bool", "padding"), "and not padding")
    return mask


def _and(a: Tensor, b: Tensor, name: str) -> Tensor:
    return a.tape.new(broadcast_shapes(a.shape, b.shape), "bool", name)


def _additive(context: Context, kind: AttentionType) -> Tensor:
    """The same in the hidden states' dtype, 0 or the smallest number; boolean again where the family wants it so."""
    boolean = _boolean(context, kind)
    shape = (context.batch, 1, context.length, context.length + cached_tokens(context, kind))
    mask = context.tape.new(shape, context.dtype, "additive")
    del boolean
    return context.tape.new(shape, "bool", "boolean again") if context.forward.boolean_masks else mask
