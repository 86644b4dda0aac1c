"""Granite: Llama's block with multipliers on embeddings, residuals and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers.decoder_forward import DecoderForward
from calculator.layers.decoder_layer import Sequential

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def _embeddings(context: Context, inputs_embeds: Tensor) -> Tensor:
    context.scoped("model.")
    return ops.scale(inputs_embeds, "embeddings, multiplied")


def multiplied(_: Context, hidden_states: Tensor) -> Tensor:
    """A sublayer's output, times a number."""
    return ops.scale(hidden_states, "output, multiplied")


def scaled_logits(context: Context, logits: Tensor) -> Tensor:
    """Times or over a number."""
    context.scoped("logits: ")
    return ops.scale(logits, "scaled")


PROGRAMS = {
    "granite": DecoderForward(
        enter=_embeddings,
        keeps="input",
        layer=Sequential(scaled=multiplied),
        logits=scaled_logits,
        source="transformers/models/granite/modeling_granite.py",
    ),
}
