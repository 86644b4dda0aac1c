"""Memory layouts: which reshapes of a tensor are views and which are copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def mergeable(x: Tensor, name: str) -> Tensor:
    """Return a tensor whose batches and heads can be flattened without a copy.

    It is a copy, unless the layout already allows that or one of the two is 1. The layout of a single position allows
    it if the tensor is all of its storage.
    """
    return x if x.merged or 1 in x.shape[:2] or _one_position(x) else ops.contiguous(x, name)


def _one_position(x: Tensor) -> bool:
    if x.shape[2] != 1 or x.storage is None:
        return False
    return elements(x.tape.rows[x.storage.row][1]) == elements(x.shape)


def by_positions(x: Tensor, name: str) -> Tensor:
    """Return (batch, heads, positions, head_dim) with positions first in memory.

    It is a copy unless there is one position.
    """
    return x if x.shape[2] == 1 else ops.contiguous(x, name)
