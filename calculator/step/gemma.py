"""Gemma 1, 2 and the text model of 3: scaled embeddings, offset norms, from 2 on around every sublayer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.step import attention, masks, norms
from calculator.step import operations as ops
from calculator.step.decoder_layer import Sequential, by
from calculator.step.program import Program, looked_up, rotary_tables_per_type, tables_of_type
from calculator.step.self_attention import SelfAttention, normed_later

if TYPE_CHECKING:
    from calculator.step.context import Context
    from calculator.step.tape import Tensor

_NORM = by(norms.offset_rms_norm)


def _capped_scores(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    capped = context.config["attn_logit_softcapping"] is not None
    return attention.eager(context, query, key, value, capped=capped)


def _left(context: Context, hidden_states: Tensor) -> Tensor:
    return norms.offset_rms_norm(context.outer("model.norm"), hidden_states)


def _capped(context: Context, logits: Tensor) -> Tensor:
    """cap · tanh(logits / cap), where there is a cap."""
    if context.config["final_logit_softcapping"] is None:
        return logits
    context.scoped("logits: ")
    logits = ops.scale(logits, "divided by the cap")
    logits = ops.unary(logits, "tanh", saves="result")
    return ops.scale(logits, "capped")


_SANDWICH = Sequential(
    norm=_NORM,
    before=("input_layernorm", "pre_feedforward_layernorm"),
    after=("post_attention_layernorm", "post_feedforward_layernorm"),
)

_SCALED = partial(looked_up, scaled=True)

PROGRAMS = {
    "gemma": Program(
        embeddings=_SCALED,
        layer=Sequential(norm=_NORM),
        leave=_left,
        source="transformers/models/gemma/modeling_gemma.py",
    ),
    "gemma2": Program(
        embeddings=_SCALED,
        layer=replace(_SANDWICH, attention=SelfAttention(written_out=_capped_scores)),
        leave=_left,
        logits=_capped,
        masks=(masks.FULL, masks.SLIDING),
        sdpa="eager",
        source="transformers/models/gemma2/modeling_gemma2.py",
    ),
    "gemma3_text": Program(
        embeddings=_SCALED,
        tables=rotary_tables_per_type,
        share=tables_of_type,
        layer=replace(_SANDWICH, attention=SelfAttention(project=normed_later(norms.offset_rms_norm))),
        leave=_left,
        logits=_capped,
        masks=(masks.FULL, masks.SLIDING),
        masks_both_ways=True,
        source="transformers/models/gemma3/modeling_gemma3.py",
    ),
}
