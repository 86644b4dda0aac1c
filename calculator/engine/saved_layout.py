"""The layout of a saved tensor: which part of its storage it is, and whether it is contiguous.

A view of a split or sliced tensor is found by the nodes that its gradient goes back through.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from calculator.engine.operations import PARTS, PERMUTED, VIEW
from calculator.engine.tape import StridedTensor

if TYPE_CHECKING:
    from calculator.engine.tape import Edge, Tensor

#: A part of a storage: the number of the node that made it, and the index among the node's outputs. None for all of it.
Part = tuple[int, int] | None


def part_of(tensor: Tensor) -> Part:
    """Return the part of its storage that a tensor is."""
    edge = _cut(tensor)
    return None if edge is None else (edge[0].sequence_nr, edge[1])


def is_contiguous(tensor: Tensor) -> bool:
    """Return whether a tensor is contiguous and begins where its storage does."""
    if isinstance(tensor, StridedTensor) or (tensor.edge is not None and tensor.edge[0].apply is PERMUTED):
        return False
    edge = _cut(tensor)
    if edge is None:
        return True
    node, index, shape, _ = edge
    whole = node.context[0]
    first = next((at for at, (size, of) in enumerate(zip(shape, whole, strict=False)) if size != of), 0)
    return not index and prod(map(int, whole[:first])) == 1


def _cut(tensor: Tensor) -> Edge | None:
    """Return the edge of the part that a tensor is or is a view of: the node that split or sliced it, and the index."""
    edge = tensor.edge
    while edge is not None and edge[0].apply is VIEW:
        edge = edge[0].edges[0]
    return edge if edge is not None and edge[0].apply in PARTS else None
