"""Granite: Llama's block with multipliers on embeddings, residuals and logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import operations as ops
from calculator.step.decoder_layer import Sequential
from calculator.step.program import Program

if TYPE_CHECKING:
    from calculator.step.context import Context
    from calculator.step.tape import Tensor


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
    "granite": Program(
        enter=_embeddings,
        keeps="input",
        layer=Sequential(scaled=multiplied),
        logits=scaled_logits,
        source="transformers/models/granite/modeling_granite.py",
    ),
}
