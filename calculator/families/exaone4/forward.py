"""EXAONE 4: norms after sublayers, normalized queries and keys, and no rotary embeddings in layers without a window."""

from __future__ import annotations

from calculator.layers import norms
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention, norm_after_projections

EXAONE4 = DecoderForward(
    layer=SequentialLayer(
        attention=SelfAttention(project=norm_after_projections(norms.rms_norm)),
        input_norms=("", ""),
        output_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
    ),
    masks=("full_attention",),
)
