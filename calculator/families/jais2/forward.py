"""Jais 2: Llama's layer with LayerNorm and a plain squared-ReLU MLP."""

from __future__ import annotations

from calculator.layers import mlp, norms
from calculator.layers.decoder_forward import DecoderForward, final
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name

JAIS2 = DecoderForward(
    layer=SequentialLayer(
        mlp=mlp.plain("mlp.up_proj", "mlp.down_proj"),
        norm=norm_by_name(norms.layer_norm),
    ),
    final_norm=final(norms.layer_norm),
)
