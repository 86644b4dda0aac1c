"""Gemma 3 with its vision tower."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.families.gemma.forward import GEMMA3_TEXT
from calculator.families.gemma3.images import GEMMA3_IMAGES
from calculator.layers import norms
from calculator.layers.decoder_forward import embed, final, identity

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def refuses_flash(_: Config) -> str:
    """Return why FlashAttention is refused: no mask lets an image's tokens attend to each other (Gemma3Model)."""
    return "transformers refuses it for a model that reads images: use sdpa"


def embed_words(context: Context, ids: Tensor) -> Tensor:
    """Look up word embeddings. If the image token is not in the vocabulary, a copy of the ids replaces it.

    Source: Gemma3Model.forward and PaliGemmaModel.forward, which receive embeddings instead of ids if PEFT has looked
    them up.
    """
    config, given = context.config, context.method.embeds_inputs and not context.past
    if config["image_token_id"] >= config["vocab_size"] and not given:
        context.set_scope("model: ")
        mask, ids = context.tape.new(ids.shape, "bool", "images"), context.tape.new(ids.shape, "int64", "ids of words")
        context.decoder_locals += [mask, ids]
    return embed(context, ids, "model.language_model.embed_tokens", scaled=True)


GEMMA3 = replace(
    GEMMA3_TEXT,
    embeddings=embed_words,
    logits=identity,
    final_norm=final(norms.offset_rms_norm, "model.language_model.norm"),
    masks=(),
    masks_of_batch=None,
    bidirectional_masks=False,
    refuses_flash=refuses_flash,
    tower=GEMMA3_IMAGES,
)
