"""Pooling: the memory that it allocates and saves for the backward pass.

Source: tools/autograd/derivatives.yaml, avg_pool2d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor


def average(x: Tensor, shape: Shape, name: str) -> Tensor:
    """Return torch.nn.functional.avg_pool2d of a contiguous tensor, which is saved."""
    node = Node(x.tape, _average_back, (x.edge,), x.shape) if x.edge else None
    if node is not None:
        node.save(x)
    return x.tape.new(shape, x.dtype, name, node)


def _average_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "pooling: gradient"),)
