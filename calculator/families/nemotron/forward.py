"""Nemotron: LayerNorm offset by one, partial rotary embeddings, a plain squared-ReLU MLP."""

from __future__ import annotations

from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.self_attention import SelfAttention, rotate_part

NEMOTRON = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(rotate=rotate_part),
        mlp=mlp.plain("mlp.up_proj", "mlp.down_proj"),
        norm=norm_by_name(norms.offset_layer_norm),
    ),
    final_norm=final(norms.offset_layer_norm),
    passes_bounds=False,
    partial_rotary=True,
)
