"""Where a tensor lies, and which views of it are therefore copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def mergeable(x: Tensor, name: str) -> Tensor:
    """Batches and heads as one dimension: a copy unless the tensor lies that way, or one of them is 1.

    The heads of a single position lie that way, where they are all of their storage.
    """
    return x if x.merged or 1 in x.shape[:2] or _one_position(x) else ops.contiguous(x, name)


def _one_position(x: Tensor) -> bool:
    if x.shape[2] != 1 or x.storage is None:
        return False
    return elements(x.tape.rows[x.storage.row][1]) == elements(x.shape)


def by_positions(x: Tensor, name: str) -> Tensor:
    """Heads by positions, (batch, heads, positions, head_dim), laid out positions first: a copy but of a single one."""
    return x if x.shape[2] == 1 else ops.contiguous(x, name)
