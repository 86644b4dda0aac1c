"""Mistral 3 with its vision tower, for batches of text: Mistral's layers, or Ministral 3's, which scale queries."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.families.llama.forward import MISTRAL
from calculator.families.ministral.forward import rotate_and_scale
from calculator.layers import norms
from calculator.layers.decoder_forward import embed, final
from calculator.layers.decoder_layer import SequentialLayer
from calculator.layers.self_attention import SelfAttention, rotate_heads

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def _rotate(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Apply rotary embeddings to all dimensions of every head, as the text model does."""
    rotate = rotate_and_scale if context.config["text_model_type"] == "ministral3" else rotate_heads
    return rotate(context, query_states, key_states)


MISTRAL3 = replace(
    MISTRAL,
    layer=SequentialLayer(attention=SelfAttention(rotate=_rotate)),
    embeddings=partial(embed, name="model.language_model.embed_tokens"),
    final_norm=final(norms.rms_norm, "model.language_model.norm"),
)
