"""Requests that fail on a GPU but run on the meta device, which has neither values nor kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.estimation.request import Request

#: The families' names for an embedding of learned positions.
POSITIONS = ("wpe", "embed_positions", "position_embeddings")


def check(model: nn.Module, request: Request) -> None:
    """Refuse requests that flash attention or learned positions do not support.

    Raises:
        PlanError: with the reason.
    """
    training = request.training
    if training.attention == "flash_attention_2":
        if training.dtype == "float32" and training.autocast is None:
            raise refusal("training.attention", "flash attention has no float32 kernel; use sdpa", training.attention)
        if training.padding:
            reason = "with padding its memory depends on how many tokens are padding; use sdpa"
            raise refusal("training.attention", reason, training.attention)
    if getattr(model, "main_input_name", "input_ids") == "input_features":
        return  # the model checks the length of its labels itself
    positions, needed = _positions(model), positions_needed(request)
    if positions is not None and needed > positions:
        reason = f"{needed:,} tokens do not fit the model's {positions:,} learned positions"
        raise refusal("training.sequence_length", reason, training.sequence_length)


def positions_needed(request: Request) -> int:
    """Return the number of positions of a sequence, virtual tokens included."""
    return request.training.sequence_length + request.method.virtual_tokens


def _positions(model: nn.Module) -> int | None:
    """Return the number of learned positions; None for a model without them."""
    tables = (
        module
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in POSITIONS and isinstance(module, nn.Embedding)
    )
    table = next(tables, None)
    if table is None:
        return None
    unused = 0 if table.padding_idx is None else table.padding_idx + 1
    return table.num_embeddings - getattr(table, "offset", unused)
