"""Arcee: Llama's layer with a plain squared-ReLU MLP."""

from __future__ import annotations

from calculator.layers import mlp
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer

ARCEE = DecoderForward(layer=SequentialLayer(mlp=mlp.plain("mlp.up_proj", "mlp.down_proj")))
