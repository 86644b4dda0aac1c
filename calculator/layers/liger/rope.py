"""Liger's rotary embedding: one kernel that rotates queries and keys in place.

Source: liger_kernel/ops/rope.py of Liger 0.8.5, LigerRopeFunction.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import NodeWithOutputs
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.engine.autograd import Node
    from calculator.layers.context import Context


def rotate_in_place(context: Context, query: Tensor, key: Tensor, *, copies: bool = False) -> tuple[Tensor, Tensor]:
    """Rotate queries and keys in place. Cos and sin are saved.

    If positions are not first in memory (`copies`), queries and keys are copied first. The gradients of eager attention
    have heads first in memory, so the backward pass copies them.
    """
    tape, (cos, sin) = query.tape, context.position_tables[:2]
    if copies:
        query, key = ops.contiguous(query, "query, contiguous"), ops.contiguous(key, "key, contiguous")
    node = None
    if query.edge or key.edge:
        node = NodeWithOutputs(tape, _rotate_back, (query.edge, key.edge), context.attention == "eager", outputs=2)
        node.save(cos)
        node.save(sin)
    return (
        Tensor(tape, query.storage, query.shape, query.dtype, node, 0),
        Tensor(tape, key.storage, key.shape, key.dtype, node, 1),
    )


def _rotate_back(node: Node, grads: list[Tensor | None]) -> list[Tensor | None]:
    out: list[Tensor | None] = []
    for name, grad in zip(("query", "key"), grads, strict=True):
        copied = grad is not None and node.context
        if grad is not None and copied:
            grad = grad.tape.new(grad.shape, grad.dtype, f"{name}: gradient, contiguous")  # noqa: PLW2901
        out.append(grad)
    return out


rotate_copies = partial(rotate_in_place, copies=True)
