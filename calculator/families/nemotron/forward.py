"""Nemotron: LayerNorm offset by one, partly rotated heads, a plain squared-ReLU MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import Sequential, by
from calculator.layers.self_attention import SelfAttention, partly_rotated

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def _left(context: Context, hidden_states: Tensor) -> Tensor:
    return norms.offset_layer_norm(context.outer("model.norm"), hidden_states)


NEMOTRON = DecoderForward(
    layer=Sequential(
        attention=SelfAttention(rotate=partly_rotated),
        mlp=mlp.plain("mlp.up_proj", "mlp.down_proj"),
        norm=by(norms.offset_layer_norm),
    ),
    final_norm=_left,
    partial_rotary=True,
    source="transformers/models/nemotron/modeling_nemotron.py",
)
