"""HunYuan V1 dense: Llama's layer. Queries and keys are normalized after rotary embeddings are applied."""

from __future__ import annotations

from calculator.layers import norms
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import NormsAfterRotation, SelfAttention

HUNYUAN_V1_DENSE = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(
            rotated_norms=NormsAfterRotation(norms.rms_norm, "self_attn.query_layernorm", "self_attn.key_layernorm")
        )
    )
)
