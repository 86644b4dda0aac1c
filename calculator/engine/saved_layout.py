"""The layout of a saved tensor: which part of its storage it is, and whether it is contiguous.

It is found by the nodes that the tensor's gradient goes back through.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from calculator.engine.operations import ELEMENTWISE, PERMUTED, SLICED, SPLIT, VIEW
from calculator.engine.tape import StridedTensor

if TYPE_CHECKING:
    from calculator.engine.tape import Edge, Tensor

#: A part of a storage: the number of the node that made it, and the part's number. None if it begins with the storage.
Part = tuple[int, int] | None


def part_of(tensor: Tensor) -> Part:
    """Return the part of its storage that a tensor is."""
    edge = _cut(tensor)
    number = 0 if edge is None else _number(edge)
    return None if edge is None or not number else (edge[0].sequence_nr, number)


def is_contiguous(tensor: Tensor) -> bool:
    """Return whether a tensor is contiguous and begins where its storage does."""
    if isinstance(tensor, StridedTensor) or (tensor.edge is not None and tensor.edge[0].apply is PERMUTED):
        return False
    edge = _cut(tensor)
    if edge is None:
        return not _is_by_positions(tensor)
    shape, whole = edge[2], edge[0].context[0]
    first = next((at for at, (size, of) in enumerate(zip(shape, whole, strict=False)) if size != of), 0)
    return not _number(edge) and prod(map(int, whole[:first])) == 1


def _number(edge: Edge) -> int:
    """Return the number of the part that a split or a slice returned."""
    number: int = edge[0].context[2] if edge[0].apply is SLICED else edge[1]
    return number


def _cut(tensor: Tensor) -> Edge | None:
    """Return the edge of the part that a tensor is or is a view of."""
    edge = tensor.edge
    while edge is not None and edge[0].apply is VIEW:
        edge = edge[0].edges[0]
    return edge if edge is not None and edge[0].apply in (SPLIT, SLICED) else None


def _is_by_positions(tensor: Tensor) -> bool:
    """Return whether the tensor has heads, (batch, heads, positions, head_dim), whose memory is ordered by positions.

    These are views of what a projection returns, (batch, positions, features), and what elementwise operations return
    for them.
    """
    edge = tensor.edge
    while edge is not None and edge[0].apply in ELEMENTWISE:
        shape = edge[2]
        edge = next(
            (input_edge for input_edge in edge[0].edges if input_edge is not None and input_edge[2] == shape), None
        )
    if edge is None or edge[0].apply is not VIEW or (len(edge[2]), len(edge[0].context)) != (4, 3):
        return False
    (_, heads, length, _), positions = edge[2], edge[0].context[1]
    return heads not in (1, positions) and length == positions > 1
