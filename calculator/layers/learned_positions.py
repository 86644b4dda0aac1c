"""Learned position embeddings, as GPT-2 and families like it add them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import enter, leave
from calculator.layers.decoder_forward import embed
from calculator.layers.dropout import dropout as dropped

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def add_to(context: Context, inputs_embeds: Tensor, table: str, dropout: str, *, given: bool = True) -> Tensor:
    """Add position embeddings to inputs_embeds and apply dropout. They stay alive while the layers run.

    `given`: whether the layers receive the position_ids.
    """
    position_ids = _positions(context, inputs_embeds.shape[1])
    position_embeds = leave(table, embed(context, enter(table, position_ids), table))
    received = given and "positions_outside_of_layers" not in context.older
    context.position_tables = (position_ids,) if received else ()
    context.decoder_locals += [position_ids, position_embeds]
    hidden_states = ops.add(inputs_embeds, position_embeds, "words + positions")
    return dropped(hidden_states, context.config[dropout], "words + positions, dropped")


def _positions(context: Context, length: int) -> Tensor:
    """Return the positions. Older code counts those of every sequence from its mask."""
    if "masks_in_every_pass" in context.older and context.training.passes_mask:
        return context.tape.new((context.batch, length), "int64", "position_ids")
    return context.position_ids(length)


def position_ids(context: Context, _hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the position_ids that `add_to` created, if the layers receive them."""
    return context.position_tables
