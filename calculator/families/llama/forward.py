"""Llama and Mistral: RMSNorm, rotary attention, a gated MLP, two residuals."""

from __future__ import annotations

from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer

LLAMA = DecoderForward(layer=SequentialLayer())

MISTRAL = DecoderForward(layer=SequentialLayer())
