"""Ministral (windows by layer), CWM, and Ministral 3, which scales its queries by their position."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention, rotate_heads

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def rotate_and_scale(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate all dimensions of every head, then multiply queries by a factor of their position."""
    query_states, key_states = rotate_heads(context, query_states, key_states)
    scale = ops.cast(_attn_scale(context), query_states.dtype, "query scale, cast")
    return ops.mul(query_states, scale, "query, scaled"), key_states


def _attn_scale(context: Context) -> Tensor:
    """Return 1 + beta · log(1 + floor(position / original_max_position_embeddings)) for each position."""
    positions = context.position_tables[-1]
    scaling = context.tape.new(positions.shape, "float32", "query scale: positions, divided")
    for step in ("floor", "1 + floor", "log", "beta · log", "1 + beta · log"):
        scaling = context.tape.new(positions.shape, "float32", f"query scale: {step}")
    return ops.view(scaling, (1, 1, positions.shape[1], 1))


MINISTRAL = DecoderForward(layer=SequentialLayer(), masks=("full_attention", "sliding_attention"))

MINISTRAL3 = DecoderForward(layer=SequentialLayer(attention=SelfAttention(rotate=rotate_and_scale)))
