"""SmolLM 3: Llama's block, without rotary embeddings in some layers."""

from __future__ import annotations

from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import Sequential
from calculator.layers.masks import FULL

SMOLLM3 = DecoderForward(layer=Sequential(), masks=(FULL,), source="transformers/models/smollm3/modeling_smollm3.py")
