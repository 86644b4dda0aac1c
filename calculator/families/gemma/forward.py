"""Gemma 1, 2 and the text model of 3: scaled embeddings, offset norms, from 2 on around every sublayer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import attention, masks, norms
from calculator.layers.decoder_forward import DecoderForward, looked_up, rotary_tables_per_type, tables_of_type
from calculator.layers.decoder_layer import Sequential, by
from calculator.layers.self_attention import SelfAttention, normed_later

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

_NORM = by(norms.offset_rms_norm)


def _capped_scores(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    capped = context.config["attn_logit_softcapping"] is not None
    return attention.eager(context, query, key, value, capped=capped)


def _left(context: Context, hidden_states: Tensor, name: str = "model.norm") -> Tensor:
    return norms.offset_rms_norm(context.outer(name), hidden_states)


def _capped(context: Context, logits: Tensor) -> Tensor:
    """cap · tanh(logits / cap), where there is a cap."""
    if context.config["final_logit_softcapping"] is None:
        return logits
    context.scoped("logits: ")
    logits = ops.scale(logits, "divided by the cap")
    logits = ops.unary(logits, "tanh", saves="result")
    return ops.scale(logits, "capped")


def _refused(_: Config) -> str:
    """FlashAttention has no mask that lets an image's tokens see one another (Gemma3Model._supports_flash_attn)."""
    return "transformers refuses it for a model that reads images: take sdpa"


def _without_images(context: Context, ids: Tensor) -> Tensor:
    """The words' embeddings; where the token of an image is none of the vocabulary, ids are copied to replace it.

    Source: Gemma3Model.forward, which is given embeddings and not ids where PEFT has looked them up.
    """
    config, given = context.config, context.method.looks_words_up and not context.past
    if config["image_token_id"] >= config["vocab_size"] and not given:
        context.scoped("model: ")
        mask, ids = context.tape.new(ids.shape, "bool", "images"), context.tape.new(ids.shape, "int64", "ids of words")
        context.during_layers += [mask, ids]
    return looked_up(context, ids, "model.language_model.embed_tokens", scaled=True)


_SANDWICH = Sequential(
    norm=_NORM,
    before=("input_layernorm", "pre_feedforward_layernorm"),
    after=("post_attention_layernorm", "post_feedforward_layernorm"),
)

_SCALED = partial(looked_up, scaled=True)

_GEMMA3 = DecoderForward(
    embeddings=_SCALED,
    tables=rotary_tables_per_type,
    share=tables_of_type,
    layer=replace(_SANDWICH, attention=SelfAttention(project=normed_later(norms.offset_rms_norm))),
    leave=_left,
    masks=(masks.FULL, masks.SLIDING),
    masks_both_ways=True,
    source="transformers/models/gemma3/modeling_gemma3.py",
)

PROGRAMS = {
    "gemma": DecoderForward(
        embeddings=_SCALED,
        layer=Sequential(norm=_NORM),
        leave=_left,
        source="transformers/models/gemma/modeling_gemma.py",
    ),
    "gemma2": DecoderForward(
        embeddings=_SCALED,
        layer=replace(_SANDWICH, attention=SelfAttention(written_out=_capped_scores)),
        leave=_left,
        logits=_capped,
        masks=(masks.FULL, masks.SLIDING),
        sdpa="eager",
        source="transformers/models/gemma2/modeling_gemma2.py",
    ),
    "gemma3_text": replace(_GEMMA3, logits=_capped),
    "gemma3": replace(
        _GEMMA3,
        embeddings=_without_images,
        leave=partial(_left, name="model.language_model.norm"),
        masks=(),
        masks_both_ways=False,
        refuses_flash=_refused,
    ),
}
