"""Views and copies of batches of matrices, as torch.einsum makes them."""

from __future__ import annotations

from functools import reduce
from operator import mul
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor


def tokens_of(x: Tensor) -> int:
    """Return the number of tokens of hidden states, whether they are flattened or not."""
    return reduce(mul, x.shape[:-1])


def permuted(x: Tensor, shape: Shape) -> Tensor:
    """Return a permuted view of a reshaped tensor. Its gradient is copied when it is reshaped back."""
    node = Node(x.tape, _copied_back, (x.edge,), x.shape) if x.edge else None
    out = ops.view(x.detach(), shape)
    out.edge = None if node is None else (node, 0, shape, x.dtype)
    return out


def copied(x: Tensor, shape: Shape, name: str, *, copies_gradient: bool = False) -> Tensor:
    """Return a copy of a permuted view in another shape. Its gradient is a view, or a copy too."""
    node = Node(x.tape, _copied_back if copies_gradient else _viewed_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new(shape, x.dtype, name, node)


def _copied_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "blocks: gradient"),)


def _viewed_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (ops.view(grad, node.context),)
