"""Qwen 2.5 and 3 VL for batches of text: Qwen's text models, whose positions have three axes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import passed
from calculator.families.qwen.forward import QWEN2, QWEN3, QWEN3_MOE_OF_IMAGES
from calculator.families.qwen_vl import deepstack, vision
from calculator.layers import norms
from calculator.layers.decoder_forward import embed, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

#: The axes of a position: time, height and width.
_AXES = 3

#: The positions of a token that `generate` creates: the text position, and one position for each axis.
POSITIONS_OF_TOKEN = 1 + _AXES

_MODEL = "model.language_model"


def _join_sections(freq: Tensor, name: str) -> Tensor:
    """Join the sections of pairs, one from each axis, and repeat the result for both halves (Qwen 2.5)."""
    _, batch, length, half = freq.shape
    pairs = ops.cat((freq,), (batch, length, half), f"rotary: {name}, by sections")
    return ops.cat((pairs, pairs), (batch, length, 2 * half), f"rotary: {name}, whole")


def _interleaved(freq: Tensor, name: str) -> Tensor:
    """Write the pairs of height and width over those of time, and repeat the result for both halves (Qwen 3)."""
    _, batch, length, half = freq.shape
    pairs = ops.narrow(freq, (batch, length, half))
    return ops.cat((pairs, pairs), (batch, length, 2 * half), f"rotary: {name}, whole")


def _axial(context: Context, hidden_states: Tensor, recompose: Callable[[Tensor, str], Tensor]) -> tuple[Tensor, ...]:
    """Return cos and sin, each (batch, 1, sequence, head_dim), and position_ids."""
    context.set_scope(f"{_MODEL}.")
    tape, (batch, length, _) = context.tape, hidden_states.shape
    # With images, positions are computed for each sequence.
    shape = (_AXES, batch, length) if context.training.has_images else (length,)
    given = context.gives_positions
    passed(tape, f"{_MODEL}.rotary_emb")
    position_ids = context.position_ids(length) if given else tape.new(shape, "int64", "position_ids")
    freqs = tape.new((_AXES, batch, length, context.config["rotary_dim"] // 2), "float32", "rotary: freqs")
    tape.multiply_angles()
    cos = ops.scale(ops.unary(freqs, "rotary: cos", saves="input"), "rotary: cos, scaled")
    sin = ops.scale(ops.unary(freqs, "rotary: sin", saves="input"), "rotary: sin, scaled")
    sin = recompose(sin, "sin")
    cos = recompose(cos, "cos")
    cos, sin = (ops.cast(table, hidden_states.dtype, f"rotary: {name}") for table, name in ((cos, "cos"), (sin, "sin")))
    head_shape = (batch, 1, length, cos.shape[-1])
    return ops.view(cos, head_shape), ops.view(sin, head_shape), position_ids


def _tables_by_sections(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the tables of Qwen 2.5. Its layers receive no positions, because the text model keeps them."""
    cos, sin, position_ids = _axial(context, hidden_states, _join_sections)
    context.decoder_locals.append(position_ids)
    return cos, sin


def _interleaved_tables(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the tables of Qwen 3 and, for text only, the positions, which every layer receives."""
    cos, sin, position_ids = _axial(context, hidden_states, _interleaved)
    if not context.training.has_images:
        return cos, sin, position_ids
    context.decoder_locals.append(position_ids)
    return cos, sin


_EMBED = partial(embed, name=f"{_MODEL}.embed_tokens")
_NORM = final(norms.rms_norm, f"{_MODEL}.norm")

QWEN2_5_VL = replace(
    QWEN2,
    embeddings=_EMBED,
    tables=_tables_by_sections,
    final_norm=_NORM,
    tower=vision.QWEN2_5,
    positions_of_token=POSITIONS_OF_TOKEN,
)

QWEN2_VL = replace(QWEN2_5_VL, tower=vision.QWEN2)

QWEN3_VL, QWEN3_VL_MOE = (
    replace(
        text,
        embeddings=_EMBED,
        tables=_interleaved_tables,
        final_norm=_NORM,
        masks=(),
        tower=deepstack.QWEN3,
        positions_of_token=POSITIONS_OF_TOKEN,
    )
    for text in (QWEN3, QWEN3_MOE_OF_IMAGES)
)
