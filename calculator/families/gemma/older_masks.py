"""The masks of Gemma 2 and 3 before transformers 4.53: one, of which each layer with a window makes one of its own.

Source: transformers 4.48.3 and 4.52.4, models/gemma2/modeling_gemma2.py (Gemma2Model._update_causal_mask,
Gemma2DecoderLayer.forward).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.operations import expand
from calculator.layers.masks import text_masks

if TYPE_CHECKING:
    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.decoder_layer import SequentialLayer
    from calculator.layers.layer_modules import LayerModules


def batch_masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return the masks of each attention type: older releases pass all layers the same."""
    if "masks_of_windowed_layers" not in context.older:
        return text_masks(context)
    mask = None if context.attention == "flash_attention_2" else _causal(context)
    return {"full_attention": mask, "sliding_attention": mask}


def _causal(context: Context) -> Tensor:
    """Return the causal mask in the model's dtype, the same for every sequence where no mask of tokens is passed."""
    tape, batch, length = context.tape, context.batch, context.length
    shape = (batch, 1, length, length)
    mask = tape.new((length, length), context.dtype, "smallest numbers")
    if length != 1:
        mask = tape.new((length, length), context.dtype, "causal")
    positions = tape.new((length,), "int64", "positions of keys")
    later = tape.new((length, length), "bool", "later positions")
    del positions, later
    if not context.training.passes_mask:
        return expand(mask, shape)
    mask = tape.new(shape, context.dtype, "causal, of each sequence")
    padding = tape.new(shape, context.dtype, "causal + mask of tokens")
    padding = tape.new(shape, "bool", "padding")
    masked = tape.new(shape, context.dtype, "causal, of no padding")
    del padding, masked
    return mask


def windowed(layer: SequentialLayer, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run a layer; in older releases, one with a window makes a mask of its own, which it keeps until it returns."""
    has_window = modules.kind.attention == "sliding_attention"
    if not has_window or context.mask is None or "masks_of_windowed_layers" not in context.older:
        return layer(context, modules, hidden_states)
    tape, shape, dtype = context.tape, context.mask.shape, context.mask.dtype
    context.set_scope(f"{modules.prefix}attention mask: ")
    outside = tape.new(shape, "bool", "ones")
    outside = tape.new(shape, "bool", "outside the window")
    context.mask = tape.new(shape, dtype, "causal, in the window")
    kept = [outside]
    if "masks_copied_by_index" in context.older:
        offset = tape.new((), "int64", "last position - length")
        offset = tape.new((), "int64", "offset")
        offset = tape.new((), "int64", "offset, at least 0")
        kept += [offset, tape.new((shape[-1],), "int64", "positions of the window")]
        context.mask = tape.new(shape, dtype, "causal, in the window, by index")
    return layer(context, modules, hidden_states)
