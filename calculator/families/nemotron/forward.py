"""Nemotron: LayerNorm offset by one, partly rotated heads, a plain squared-ReLU MLP."""

from __future__ import annotations

from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import Sequential, by
from calculator.layers.self_attention import SelfAttention, partly_rotated

NEMOTRON = DecoderForward(
    layer=Sequential(
        attention=SelfAttention(rotate=partly_rotated),
        mlp=mlp.plain("mlp.up_proj", "mlp.down_proj"),
        norm=by(norms.offset_layer_norm),
    ),
    final_norm=final(norms.offset_layer_norm),
    partial_rotary=True,
)
