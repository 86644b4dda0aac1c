"""Elementwise selection: torch.minimum, torch.min and torch.where."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node
from calculator.engine.result_types import broadcast_shapes, result_type

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def minimum(x: Tensor, name: str) -> Tensor:
    """Return torch.minimum(x, buffer). x is saved."""
    node = Node(x.tape, _minimum_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(x)
    return x.tape.new(x.shape, x.dtype, name, node)


def _minimum_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    tape = grad.tape
    equal = tape.scratch(grad.shape, "bool", "minimum: equal")
    half = tape.scratch(grad.shape, grad.dtype, "minimum: half the gradient")
    out = tape.new(grad.shape, grad.dtype, "minimum: gradient")
    larger = tape.scratch(grad.shape, "bool", "minimum: larger")
    del equal, half, larger
    return (out,)


def smaller(a: Tensor, b: Tensor, name: str) -> Tensor:
    """Return torch.min(a, b). Both are saved."""
    node = Node(a.tape, _smaller_back, (a.edge, b.edge)) if a.edge or b.edge else None
    if node is not None:
        node.save(a)
        node.save(b)
    return a.tape.new(a.shape, result_type(a.dtype, b.dtype), name, node)


def _smaller_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    return [_minimum_back(node, grad)[0] if edge else None for edge in node.edges]


def where(condition: Tensor, a: Tensor, b: Tensor, name: str) -> Tensor:
    """Return torch.where(condition, a, b). The condition is saved."""
    node = Node(a.tape, _where_back, (a.edge, b.edge)) if a.edge or b.edge else None
    if node is not None:
        node.save(condition)
    return a.tape.new(broadcast_shapes(a.shape, b.shape), result_type(a.dtype, b.dtype), name, node)


def _where_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    return [grad.tape.new(grad.shape, grad.dtype, "where: gradient") if edge else None for edge in node.edges]
