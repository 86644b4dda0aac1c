"""Llama and what shares its block: RMSNorm, rotary attention, a gated MLP, two residuals."""

from __future__ import annotations

from calculator.layers import norms
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import Sequential
from calculator.layers.masks import FULL
from calculator.layers.self_attention import SelfAttention, normed_at_once

_QWEN3 = SelfAttention(project=normed_at_once(norms.rms_norm))

PROGRAMS = {
    "llama": DecoderForward(layer=Sequential(), source="transformers/models/llama/modeling_llama.py"),
    "mistral": DecoderForward(layer=Sequential(), source="transformers/models/mistral/modeling_mistral.py"),
    "qwen2": DecoderForward(layer=Sequential(), masks=(FULL,), source="transformers/models/qwen2/modeling_qwen2.py"),
    "qwen3": DecoderForward(
        layer=Sequential(attention=_QWEN3), masks=(FULL,), source="transformers/models/qwen3/modeling_qwen3.py"
    ),
    "smollm3": DecoderForward(
        layer=Sequential(), masks=(FULL,), source="transformers/models/smollm3/modeling_smollm3.py"
    ),
}
