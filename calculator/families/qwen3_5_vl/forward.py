"""Qwen 3.5 with its vision tower, which is Qwen 3 VL's tower without features of earlier layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.families.qwen3_5.forward import QWEN3_5, QWEN3_5_MOE, interleaved_tables
from calculator.families.qwen_vl.deepstack import QWEN3
from calculator.families.qwen_vl.forward import POSITIONS_OF_TOKEN
from calculator.layers import norms
from calculator.layers.decoder_forward import embed, final

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

_MODEL = "model.language_model"


def _tables(context: Context, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the tables and, for text only, the positions, which every layer receives."""
    if not context.training.has_images:
        return interleaved_tables(context, hidden_states)
    # With images, positions are computed for each sequence, and the layers receive none.
    cos, sin, position_ids = interleaved_tables(context, hidden_states, per_sequence=True)
    context.decoder_locals.append(position_ids)
    return cos, sin


QWEN3_5_VL, QWEN3_5_MOE_VL = (
    replace(
        text,
        embeddings=partial(embed, name=f"{_MODEL}.embed_tokens"),
        tables=_tables,
        final_norm=final(norms.offset_rms_norm, f"{_MODEL}.norm"),
        tower=QWEN3,
        positions_of_token=POSITIONS_OF_TOKEN,
    )
    for text in (QWEN3_5, QWEN3_5_MOE)
)
