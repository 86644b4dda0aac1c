"""Gemma 1, 2 and the text model of 3: scaled embeddings and offset norms, from version 2 on around every sublayer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.families.gemma.older_masks import batch_masks, windowed
from calculator.layers import attention, norms
from calculator.layers.decoder_forward import DecoderForward, embed, final, rotary_tables_per_type, tables_of_type
from calculator.layers.decoder_layer import SequentialLayer, norm_by_name
from calculator.layers.self_attention import SelfAttention, norm_after_projections

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

_NORM = norm_by_name(norms.offset_rms_norm)


def _capped_scores(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    capped = context.config["attn_logit_softcapping"] is not None
    return attention.eager(context, query, key, value, capped=capped)


def capped(context: Context, logits: Tensor) -> Tensor:
    """Return cap · tanh(logits / cap), or the logits if there is no cap."""
    if context.config["final_logit_softcapping"] is None:
        return logits
    context.set_scope("logits: ")
    logits = ops.scale(logits, "divided by the cap")
    logits = ops.unary(logits, "tanh", saves="result")
    return ops.scale(logits, "capped")


_SANDWICH = SequentialLayer(
    norm=_NORM,
    input_norms=("input_layernorm", "pre_feedforward_layernorm"),
    output_norms=("post_attention_layernorm", "post_feedforward_layernorm"),
)

_SCALED = partial(embed, scaled=True)


def _embed(context: Context, ids: Tensor) -> Tensor:
    return embed(context, ids, scaled="embeddings_scaled_by_a_number" not in context.older)


def _scale(context: Context, hidden_states: Tensor) -> Tensor:
    """Scale embeddings, if their module does not scale them."""
    if "embeddings_scaled_by_a_number" not in context.older:
        return hidden_states
    return ops.scale(hidden_states, "embeddings, scaled")


GEMMA = DecoderForward(
    embeddings=_embed,
    before_layers=_scale,
    layer=SequentialLayer(norm=_NORM),
    final_norm=final(norms.offset_rms_norm),
)

GEMMA2 = DecoderForward(
    embeddings=_embed,
    before_layers=_scale,
    layer=partial(windowed, replace(_SANDWICH, attention=SelfAttention(eager_forward=_capped_scores))),
    final_norm=final(norms.offset_rms_norm),
    logits=capped,
    masks=("full_attention", "sliding_attention"),
    masks_of_batch=batch_masks,
    sdpa="eager",
)

GEMMA3_TEXT = DecoderForward(
    embeddings=_SCALED,
    tables=rotary_tables_per_type,
    tables_for=tables_of_type,
    layer=partial(
        windowed, replace(_SANDWICH, attention=SelfAttention(project=norm_after_projections(norms.offset_rms_norm)))
    ),
    final_norm=final(norms.offset_rms_norm),
    logits=capped,
    masks=("full_attention", "sliding_attention"),
    masks_of_batch=batch_masks,
    bidirectional_masks=True,
)
