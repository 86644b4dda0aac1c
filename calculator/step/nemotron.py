"""Nemotron: LayerNorm offset by one, partly rotated heads, a plain squared-ReLU MLP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import mlp, norms
from calculator.step.decoder_layer import Sequential, by
from calculator.step.program import Program
from calculator.step.self_attention import SelfAttention, partly_rotated

if TYPE_CHECKING:
    from calculator.step.context import Context
    from calculator.step.tape import Tensor


def _left(context: Context, hidden_states: Tensor) -> Tensor:
    return norms.offset_layer_norm(context.outer("model.norm"), hidden_states)


PROGRAMS = {
    "nemotron": Program(
        layer=Sequential(
            attention=SelfAttention(rotate=partly_rotated),
            mlp=mlp.plain("mlp.up_proj", "mlp.down_proj"),
            norm=by(norms.offset_layer_norm),
        ),
        leave=_left,
        rotates_part=True,
        source="transformers/models/nemotron/modeling_nemotron.py",
    ),
}
