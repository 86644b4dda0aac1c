"""Llama and Mistral: RMSNorm, rotary attention, a gated MLP, two residuals."""

from __future__ import annotations

from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import Sequential

LLAMA = DecoderForward(layer=Sequential())

MISTRAL = DecoderForward(layer=Sequential())
