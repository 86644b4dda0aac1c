"""The rotation of queries and keys, and the function that also norms their heads.

Source: unsloth/kernels/rope_embedding.py; unsloth/kernels/qk_norm_rope.py of 2026.10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine.autograd import Node, NodeWithOutputs
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The least and the largest size of a head whose norm and rotation are one function. It is a power of two.
LEAST_HEAD, LARGEST_HEAD = 16, 1024


def norms_fuse(head_dim: int) -> bool:
    """Return whether one function norms and rotates heads of this size."""
    return LEAST_HEAD <= head_dim <= LARGEST_HEAD and head_dim & (head_dim - 1) == 0


def rotated_in_place(query: Tensor, key: Tensor, positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys in place, or copies of them if the row has positions of its own, which are then saved."""
    node = NodeWithOutputs(query.tape, _rotated_back, (query.edge, key.edge), bool(positions), outputs=2)
    if positions:
        query, key = (_copy(tensor) for tensor in (query, key))
        node.save(positions[0])
    return _outputs(node, query, key)


def rotated(query: Tensor, key: Tensor, positions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys into new tensors if the row has positions, but for a single head. Otherwise in place.

    Their gradients are new tensors.
    """
    node = NodeWithOutputs(query.tape, _rotated_back, (query.edge, key.edge), True, outputs=2)
    if positions:
        query, key = (_copy(tensor) if tensor.shape[1] > 1 else tensor for tensor in (query, key))
        node.save(positions[0])
    return _outputs(node, query, key)


def normed_and_rotated(query: Tensor, key: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Norm and rotate each head of queries and keys. Both are saved, with the reciprocal RMS of each head."""
    tape = query.tape
    node = NodeWithOutputs(tape, _rotated_back, (query.edge, key.edge), True, outputs=2)
    outs = [tape.new(tensor.shape, tensor.dtype, "normed and rotated") for tensor in (query, key)]
    for tensor in (query, key, *(_reciprocals(tensor) for tensor in (query, key)), positions):
        node.save(tensor)
    return _outputs(node, *outs)


def _reciprocals(tensor: Tensor) -> Tensor:
    heads = tensor.shape[0] * tensor.shape[2] * tensor.shape[1]
    return tensor.tape.new((named(heads, "heads"),), "float32", "reciprocal RMS of heads")


def _copy(tensor: Tensor) -> Tensor:
    return tensor.tape.new(tensor.shape, tensor.dtype, "copy to rotate")


def _outputs(node: Node, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    return (
        Tensor(query.tape, query.storage, query.shape, query.dtype, node, 0),
        Tensor(key.tape, key.storage, key.shape, key.dtype, node, 1),
    )


def _rotated_back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    if not node.context:
        return grads
    return [grad and grad.tape.new(grad.shape, grad.dtype, "copy to rotate: gradient") for grad in grads]
