"""The attention masks, each shared by all layers of an attention type. Source: transformers/masking_utils.py."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.layer_kind import ATTENTION_TYPES, RECURRENT_TYPES
from calculator.engine.operations import expand
from calculator.engine.result_types import broadcast_shapes
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.layer_kind import MixerType
    from calculator.architecture.model import Layer, Model
    from calculator.layers.context import Context

    #: The masks of a layer: of its attention, and of its recurrence.
    LayerMasks = tuple[Tensor | None, Tensor | None]


#: The changes with which older releases create a mask in every pass.
_IN_EVERY_PASS = {"masks_in_every_pass", "masks_of_windowed_layers"}


def attention_types(layers: Iterable[Layer]) -> set[MixerType]:
    """Return the types of layers. Many layers are the same object."""
    return {layer.kind.attention for layer in set(layers)}


def is_recurrent(model: Model) -> bool:
    """Return whether some layers of the decoder mix tokens not only by attention."""
    return not attention_types(model.decoder.layers).isdisjoint((*RECURRENT_TYPES, "hybrid"))


def window_tensors(context: Context) -> list[Tensor]:
    """Return the size of each window, which is a tensor in a cache.

    Source: transformers.cache_utils.DynamicSlidingWindowLayer.
    """
    if "windows_without_counters" in context.older:
        return []
    context.set_scope("cache: ")
    return [context.tape.new((), "int64", "window") for _ in range(context.model.decoder.windows)]


def given_windows(context: Context) -> list[Tensor] | None:
    """Return the windows of a cache that are allocated before the layers run, or None if each layer allocates its own.

    A layer allocates its window when it appends its first keys. If a layer with a window is interpreted for layers
    without one, the windows are allocated before all layers, of which the last one mostly has none.

    Source: transformers.cache_utils.DynamicSlidingWindowLayer.lazy_initialization.
    """
    if "windows_without_counters" in context.older:
        return []
    have_windows = context.model.decoder.windows == len(context.layers)
    if have_windows or sliding_masks_differ(context) or context.hooks.couples_layers:
        return None
    # For a model with images, the text model allocates the cache, after the vision tower.
    return [] if context.images else window_tensors(context)


def by_attention_type(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the mask of each attention type for which the family creates one, full attention first."""
    context.set_scope("model.attention mask: ")
    tower, batch_masks = context.forward.tower, context.forward.masks_of_batch
    if batch_masks is not None:
        return batch_masks(context)
    if context.images and tower is not None and tower.masks is not None:
        return tower.masks(context)
    return text_masks(context)


def text_masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the masks for a batch without images."""
    types = context.model.attention_types.union(context.forward.masks)
    if "hybrid" in types:
        types |= {"full_attention", "linear_attention"}
    transform = context.forward.transform_mask
    masks_by_type: dict[MixerType, Tensor | None] = {}
    for attention_type in ATTENTION_TYPES:
        if attention_type in types:
            masks_by_type[attention_type] = transform(context, _mask(context, attention_type))
    for recurrent_type in RECURRENT_TYPES:
        if recurrent_type in types:
            masks_by_type[recurrent_type] = _recurrent(context)
    return masks_by_type


def layer_masks(context: Context, mixer: MixerType) -> LayerMasks:
    """Return the masks that layers of a type receive."""
    if mixer == "hybrid":
        return context.masks["full_attention"], context.masks["linear_attention"]
    if mixer == "mlp":
        return None, None
    mask = context.masks[mixer]
    return (None, mask) if mixer in RECURRENT_TYPES else (mask, None)


def _recurrent(context: Context) -> Tensor | None:
    """Return the padding mask that the model is given, or None without padding.

    To find out that there is no padding, every value is compared.

    Source: create_recurrent_attention_mask.
    """
    if not context.training.passes_mask or context.length == 1:
        return None
    shape = (context.batch, context.length)
    equal = context.tape.new(shape, "bool", "mask == 1")
    context.tape.new((), "bool", "all of the mask")
    del equal
    if not context.training.padding:
        return None
    return context.padding_mask or Tensor(context.tape, None, shape, "int64", None)


def sliding_masks_differ(context: Context) -> bool:
    """Return whether only layers with a window get a mask, or only their prefix is cut.

    Source: transformers/masking_utils.py, _ignore_causal_mask_sdpa.
    """
    if context.method.cuts_prefix_to_windows(context.model):
        return True
    if "masks_of_windowed_layers" in context.older:
        return context.attention != "flash_attention_2"
    return (
        context.attention == "sdpa"
        and not _needs_mask(context, "full_attention")
        and _needs_mask(context, "sliding_attention")
    )


def every_type_has_mask(context: Context) -> bool:
    """Return whether the layers of every attention type get a mask as a tensor."""
    if context.forward.own_masks:
        return False
    return context.attention == "eager" or (context.attention == "sdpa" and _needs_mask(context, "full_attention"))


def cached_tokens(context: Context, attention: MixerType) -> int:
    """Return the number of tokens of earlier passes that the keys of a layer cover, by its attention type.

    If no layer is of that type, it is the number of any layer.
    """
    types = context.model.attention_types - {*RECURRENT_TYPES, "mlp"}
    window = context.config.get("sliding_window")
    if (
        (attention if attention in types or not types else next(iter(types))) == "full_attention"
        or context.cache is None
        or not context.cache.windowed
        or window is None
    ):
        return context.past
    return context.past if context.past < window else window - 1


def _needs_mask(context: Context, attention: MixerType) -> bool:
    """Return whether sdpa needs the mask as a tensor.

    A single query attends to every key. is_causal covers attention in one direction only.
    """
    is_bidirectional = context.forward.bidirectional_masks and context.config["use_bidirectional_attention"]
    if context.older and (_masks_packed_sequences(context) or context.older & _IN_EVERY_PASS):
        return True
    if context.training.flattened and _separates_samples(context):
        return True
    if context.training.padding or context.forward.always_masked or is_bidirectional:
        return True
    if context.method.virtual_tokens and context.past and context.length > 1:
        return True
    window: int | None = context.config.get("sliding_window") if attention == "sliding_attention" else None
    if window is None:
        return False
    tokens = context.training.sequence_length + context.method.virtual_tokens if context.length > 1 else context.length
    return cached_tokens(context, attention) + tokens >= window


def _masks_packed_sequences(context: Context) -> bool:
    """Return whether a mask for packed sequences is created, even though none is packed."""
    if "masks_without_cache" not in context.older or context.training.passes_mask or context.training.flattened:
        return False
    uncached = context.training.gradient_checkpointing or "no_cache_in_training" in context.older
    return uncached or not context.config["use_cache"]


def _separates_samples(context: Context) -> bool:
    """Return whether positions restart within flattened rows. Older code does not look for that, but for a cache.

    Source: transformers/masking_utils.py, find_packed_sequence_indices.
    """
    return not context.caches if "masks_without_cache" in context.older else context.training.samples > 1


def _mask(context: Context, attention: MixerType) -> Tensor | None:
    """Return a boolean mask if sdpa needs one, a float mask for eager, or None if the kernel masks by itself."""
    if context.forward.own_masks:
        return None
    if not context.is_causal:
        if attention == "sliding_attention" and _needs_mask(context, attention):
            return _in_window(context)
        return bidirectional(context, context.length)
    if context.encoder_states is not None:
        return _after_prefix(context) if context.past and not context.generates else None
    if context.attention == "eager":
        return _additive(context, attention)
    if context.attention != "sdpa" or not _needs_mask(context, attention):
        return None
    if "masks_in_every_pass" in context.older:
        return _padding_mask(context)
    return _additive(context, attention) if "float_masks" in context.older else _boolean(context, attention)


def _padding_mask(context: Context) -> Tensor:
    """Return a mask in the model's dtype, which older code creates from a buffer and from the padding, if any."""
    tape, length, width = context.tape, context.length, context.past + context.length
    batch = context.batch if context.training.passes_mask else 1
    padding = [tape.new((batch, length, width), "bool", "causal, of no padding")] if batch is context.batch else []
    mask = tape.new((batch, 1, length, width), context.dtype, "additive")
    del padding
    return mask


def _after_prefix(context: Context) -> Tensor:
    """Return the mask of a decoder with a prefix: (batch, 1, sequence, prefix + sequence).

    The mask that BART creates for it has no padding, but is applied.
    """
    tape, batch, length, width = context.tape, context.batch, context.length, context.past + context.length
    mask = tape.new((1, length, width), "bool", "causal")
    if context.padding_mask is None:
        return expand(mask, (batch, length, width))
    mask = _and(mask, mask, "where queries look")
    return _and(mask, tape.new((batch, 1, width), "bool", "padding"), "and not padding")


def _boolean(context: Context, attention: MixerType) -> Tensor:
    """Return a mask (batch, 1, sequence, sequence): causal, in the window, without padding.

    Its batch size is 1 if no mask is passed.
    """
    tape, batch, length = context.tape, context.batch, context.length
    width = length + cached_tokens(context, attention)
    mask = tape.new((1, length, width), "bool", "causal")
    if attention == "sliding_attention" and context.forward.chunked:
        mask = _and(_in_chunks(context, width), mask, "causal and in the chunk")
    elif attention == "sliding_attention":
        mask = _and(mask, mask, "in the window")
        mask = _and(mask, tape.new((1, length, width), "bool", "causal"), "causal and in the window")
    if _masks_packed_sequences(context):
        mask = _and(mask, tape.new((batch, length, width), "bool", "same sequence"), "and of one sequence")
    if context.training.flattened and _separates_samples(context):
        mask = _and(mask, mask, "by positions")
        mask = _and(mask, tape.new((batch, length, width), "bool", "same sample"), "and of one sample")
    if context.training.passes_mask:
        mask = _and(mask, mask, "where queries look")
        mask = _and(mask, tape.new((batch, 1, width), "bool", "padding"), "and not padding")
    return mask


def causal_or_of_one_image(context: Context) -> Tensor:
    """Return a mask (batch, sequence, sequence) in which the tokens of an image also see later tokens of it."""
    tape, batch, length = context.tape, context.batch, context.length
    causal = tape.new((1, length, length), "bool", "causal")
    same = tape.new((batch, length, length), "bool", "same image")
    mask = tape.new((batch, length, length), "bool", "causal or of one image")
    del causal, same
    return mask


def _in_chunks(context: Context, width: int) -> Tensor:
    """Return the mask of tokens in the same chunk. Chunks begin after the padding on the left.

    Source: transformers/masking_utils.py, chunked_overlay.
    """
    tape, batch, length = context.tape, context.batch, context.length
    chunks = [
        tape.new((batch, count), "int64", f"chunks of {name}") for count, name in ((width, "keys"), (length, "queries"))
    ]
    mask = tape.new((batch, length, width), "bool", "same chunk")
    del chunks
    return _and(mask, mask, "same chunk, and true")


def bidirectional(context: Context, width: int) -> Tensor | None:
    """Return a padding mask (batch, 1, sequence, width), as bool for sdpa and as numbers for eager.

    Source: create_bidirectional_mask. It creates none without padding.
    """
    if not context.training.padding:
        return None
    tape, batch, length = context.tape, context.batch, context.length
    passed = tape.new((batch, width), "bool", "padding, as bool")
    mask = tape.new((1, length, 1), "bool", "every token")
    padding = tape.new((batch, 1, width), "bool", "padding")
    mask = _and(mask, padding, "no padding")
    del passed, padding
    if context.attention == "eager":
        return _additive_of_encoder(context, width)
    return mask


def _additive_of_encoder(context: Context, width: int) -> Tensor:
    """Return a mask of numbers in the dtype of the first layer's input.

    That input is a norm's output, which is float32 under autocast.
    """
    dtype = "float32" if context.training.autocast else context.dtype
    return context.tape.new((context.batch, 1, context.length, width), dtype, "additive")


def _in_window(context: Context) -> Tensor | None:
    """Return the mask of tokens within the window in both directions. Source: sliding_window_bidirectional_overlay."""
    tape, batch, length = context.tape, context.batch, context.length
    if context.attention == "flash_attention_2":
        return None
    distance = tape.new((1, length, length), "int64", "distances")
    distance = tape.new((1, length, length), "int64", "distances without sign")
    mask = tape.new((1, length, length), "bool", "in the window")
    del distance
    mask = _and(mask, mask, "in the window and true")
    mask = _and(mask, mask, "in the window, of every token")
    if context.training.padding:
        mask = _and(mask, tape.new((batch, 1, length), "bool", "padding"), "and not padding")
    if context.attention == "eager":
        return _additive_of_encoder(context, length)
    return expand(mask, (batch, length, length))


def _and(a: Tensor, b: Tensor, name: str) -> Tensor:
    return a.tape.new(broadcast_shapes(a.shape, b.shape), "bool", name)


def _additive(context: Context, attention: MixerType) -> Tensor:
    """Return the mask in the hidden states' dtype, with 0 or the smallest number. Some families convert it to bool."""
    boolean = _boolean(context, attention)
    width = context.length + cached_tokens(context, attention)
    # Without a mask of its tokens, an older release creates one mask for all sequences, and for one more token.
    is_shared = "float_masks" in context.older and not context.training.passes_mask
    shape = (context.batch, 1, context.length, width + 1 if is_shared else width)
    mask = expand(context.tape.new((1 if is_shared else context.batch, *shape[1:]), context.dtype, "additive"), shape)
    del boolean
    return context.tape.new(shape, "bool", "boolean again") if context.forward.boolean_masks else mask
