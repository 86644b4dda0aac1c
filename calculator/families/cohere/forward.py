"""Command R: attention and MLP side by side after one norm, rotation in float32, scaled logits."""

from __future__ import annotations

from calculator.layers import norms
from calculator.layers.decoder_forward import DecoderForward, final, scaled_logits
from calculator.layers.decoder_layer import Parallel, by
from calculator.layers.self_attention import SelfAttention, cast_and_rotated, normed_later

_LAYER = Parallel(
    attention=SelfAttention(project=normed_later(norms.centred_norm), rotate=cast_and_rotated),
    norm=by(norms.centred_norm),
)


COHERE = DecoderForward(
    layer=_LAYER,
    final_norm=final(norms.centred_norm),
    logits=scaled_logits,
    source="transformers/models/cohere/modeling_cohere.py",
)

COHERE2 = DecoderForward(
    layer=_LAYER,
    final_norm=final(norms.centred_norm),
    logits=scaled_logits,
    masks=("full_attention", "sliding_attention"),
    source="transformers/models/cohere2/modeling_cohere2.py",
)
