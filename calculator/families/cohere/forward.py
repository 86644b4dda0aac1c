"""Command R: attention and MLP in parallel after one norm, rotary embeddings in float32, and scaled logits."""

from __future__ import annotations

from calculator.layers import norms
from calculator.layers.decoder_forward import DecoderForward, final, scaled_logits
from calculator.layers.decoder_layer import ParallelLayer, norm_by_name
from calculator.layers.self_attention import SelfAttention, norm_after_projections, rotate_in_float32

_LAYER = ParallelLayer(
    attention=SelfAttention(
        project=norm_after_projections(norms.centered_layer_norm, transposes_first=False), rotate=rotate_in_float32
    ),
    norm=norm_by_name(norms.centered_layer_norm),
)


COHERE = DecoderForward(
    layer=_LAYER,
    final_norm=final(norms.centered_layer_norm),
    logits=scaled_logits,
)

COHERE2 = DecoderForward(
    layer=_LAYER,
    final_norm=final(norms.centered_layer_norm),
    logits=scaled_logits,
    masks=("full_attention", "sliding_attention"),
)
