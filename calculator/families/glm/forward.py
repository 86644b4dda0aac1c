"""GLM 4: interleaved rotary embeddings for part of each head, a fused gate and up projection; glm4 norms outputs."""

from __future__ import annotations

from dataclasses import replace

from calculator.layers import mlp
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention, rotate_part_interleaved

_GLM = SequentialLayer(attention=SelfAttention(rotate=rotate_part_interleaved), mlp=mlp.fused_gated)

GLM = DecoderForward(layer=_GLM, partial_rotary=True)

GLM4 = DecoderForward(
    layer=replace(_GLM, output_norms=("post_self_attn_layernorm", "post_mlp_layernorm")), partial_rotary=True
)
