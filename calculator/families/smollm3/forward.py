"""SmolLM 3: Llama's block, without rotary embeddings in some layers."""

from __future__ import annotations

from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer

SMOLLM3 = DecoderForward(layer=SequentialLayer(), masks=("full_attention",))
