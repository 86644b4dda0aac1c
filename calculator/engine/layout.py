"""Memory layouts: which reshapes of a tensor are views and which are copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine import operations as ops
from calculator.engine.tape import StridedTensor

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def mergeable(x: Tensor, name: str) -> Tensor:
    """Return a tensor whose batches and heads can be flattened without a copy.

    It is a copy, unless the layout already allows that or one of the two is 1. The layout of a single position allows
    it if the tensor is all of its storage.
    """
    return x if x.merged or 1 in x.shape[:2] or _one_position(x) else ops.contiguous(x, name)


def strided(x: Tensor) -> Tensor:
    """Return a tensor whose last two dimensions are transposed as one whose layout is not contiguous."""
    return x if 1 in x.shape[-2:] else _marked(x)


def by_heads(x: Tensor) -> Tensor:
    """Return (batch, heads, positions, head_dim), marked as strided if its memory is ordered by positions."""
    if x.merged or 1 in x.shape[1:3]:
        return x
    return _marked(x)


def columns_of(key: Tensor) -> Tensor:
    """Return the transposed keys that torch.bmm multiplies queries with. They are a copy, or a strided view."""
    columns = mergeable(key, "key, contiguous")
    return columns if columns is not key else strided(key)


def _marked(x: Tensor) -> Tensor:
    marked = StridedTensor(x.tape, x.storage, x.shape, x.dtype, None)
    marked.edge, marked.merged = x.edge, x.merged
    return marked


def _one_position(x: Tensor) -> bool:
    if x.shape[2] != 1 or x.storage is None:
        return False
    return elements(x.tape.rows[x.storage.row][1]) == elements(x.shape)


def by_positions(x: Tensor, name: str) -> Tensor:
    """Return (batch, heads, positions, head_dim) with positions first in memory.

    It is a copy unless there is one position.
    """
    return x if x.shape[2] == 1 else ops.contiguous(x, name)
