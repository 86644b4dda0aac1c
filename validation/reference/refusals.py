"""What the real stack refuses on a GPU and the meta device lets pass, for it has no values and no kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from calculator.estimate.request import Request

#: What the families call a table of learned positions.
POSITIONS = ("wpe", "embed_positions", "position_embeddings")


def check(model: nn.Module, request: Request) -> None:
    """Refuse what flash attention and learned positions cannot take.

    Raises:
        PlanError: with the reason.
    """
    training = request.training
    if training.attention == "flash_attention_2":
        if training.dtype == "float32" and training.autocast is None:
            raise refusal("training.attention", "flash attention has no float32 kernel; use sdpa", training.attention)
        if training.padding:
            told = "with padding its memory depends on how many tokens are padding; use sdpa"
            raise refusal("training.attention", told, training.attention)
    positions, needed = _positions(model), tokens(request)
    if positions is not None and needed > positions:
        told = f"{needed:,} tokens do not fit the model's {positions:,} learned positions"
        raise refusal("training.sequence_length", told, training.sequence_length)


def tokens(request: Request) -> int:
    """How many positions a sequence takes, virtual tokens too."""
    return request.training.sequence_length + request.method.virtual_tokens


def _positions(model: nn.Module) -> int | None:
    """How many positions a model has learned; None where it has none to learn."""
    tables = (
        module
        for path, module in model.named_modules()
        if path.rpartition(".")[2] in POSITIONS and isinstance(module, nn.Embedding)
    )
    table = next(tables, None)
    return None if table is None else table.num_embeddings - getattr(table, "offset", 0)
