"""GLM 4: partly rotated by pairs, a fused gate and up projection; the later version also norms each output."""

from __future__ import annotations

from dataclasses import replace

from calculator.layers import mlp
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import Sequential
from calculator.layers.self_attention import SelfAttention, partly_rotated_by_pairs

_GLM = Sequential(attention=SelfAttention(rotate=partly_rotated_by_pairs), mlp=mlp.fused_gated)

GLM = DecoderForward(layer=_GLM, partial_rotary=True, source="transformers/models/glm/modeling_glm.py")

GLM4 = DecoderForward(
    layer=replace(_GLM, after=("post_self_attn_layernorm", "post_mlp_layernorm")),
    partial_rotary=True,
    source="transformers/models/glm4/modeling_glm4.py",
)
