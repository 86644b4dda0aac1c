"""Pooling: the memory that it allocates and saves for the backward pass.

Source: tools/autograd/derivatives.yaml, avg_pool2d and sum.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.cuda_reductions import sum_sequences

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tensor

#: The name of a sum of tokens.
SUM_OF_TOKENS = "sum of tokens"


def sum_of_tokens(x: Tensor, name: str = SUM_OF_TOKENS) -> Tensor:
    """Return x.sum(1): (batch, sequence, width) to (batch, width)."""
    batch, _, width = x.shape
    out = ops.sum_over(x, (batch, width), name)
    if x.tape.cuda:
        sum_sequences(x.tape, x.shape, x.dtype)
    return out


def average(x: Tensor, shape: Shape, name: str) -> Tensor:
    """Return torch.nn.functional.avg_pool2d of a contiguous tensor, which is saved."""
    node = Node(x.tape, _average_back, (x.edge,), x.shape) if x.edge else None
    if node is not None:
        node.save(x)
    return x.tape.new(shape, x.dtype, name, node)


def _average_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "pooling: gradient"),)
