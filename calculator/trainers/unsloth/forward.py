"""The forward pass of a family with Unsloth's modules.

Source: unsloth/models/llama.py, LlamaModel_fast_forward; models/gemma.py, GemmaDecoderLayer_fast_forward;
models/gemma2.py, Gemma2DecoderLayer_fast_forward; kernels/rms_layernorm.py, Fast_RMS_Layernorm.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from typing import TYPE_CHECKING

from calculator.layers.decoder_forward import final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.liger.norms import out_of_place_rms_norm, rms_norm
from calculator.trainers.unsloth.modules import Attention, Gated

if TYPE_CHECKING:
    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.decoder_forward import DecoderForward
    from calculator.trainers.unsloth.families import UnslothFamily


@cache
def patched(forward: DecoderForward, family: UnslothFamily, *, rewritten: bool) -> DecoderForward:
    """Return a family's forward pass with Unsloth's layers. Attention gets no mask.

    `rewritten`: whether the release has the kernels of 2026.10.
    """
    norm = out_of_place_rms_norm if family.copied_gradients else rms_norm
    layer = forward.layer.args[0] if isinstance(forward.layer, partial) else forward.layer
    assert isinstance(layer, SequentialLayer)
    attention = Attention(head_norms=family.head_norms, rewritten=rewritten)
    positions = _positions_of_rows if rewritten else _positions
    return replace(
        forward,
        layer=replace(layer, attention=attention, mlp=Gated(rewritten=rewritten), norm=norm_by_name(norm)),
        final_norm=final(norm),
        tables=positions if family.has_positions else _no_tables,
        masks_of_batch=_no_masks,
        sdpa="sdpa",
    )


def _positions(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of a row if it has its own. The tables are buffers of the model."""
    return _positions_of_rows(context, hidden_states) if context.training.is_highest else ()


def _positions_of_rows(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the positions of rows without padding."""
    context.set_scope("model.")
    return (hidden_states.tape.new(hidden_states.shape[:2], "int32", "position_ids in int32"),)


def _no_tables(context: Context, hidden_states: Tensor) -> tuple[()]:  # noqa: ARG001  the signature of such hooks
    return ()


def _no_masks(context: Context) -> dict[MixerType, Tensor | None]:
    """Return no masks: flash-attn and xformers get the size of a window."""
    return dict.fromkeys(context.model.attention_types.union(context.forward.masks))
