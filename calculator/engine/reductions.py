"""Division of rows by their norms: the memory that it allocates and saves.

Source: torch/nn/functional.py, normalize; torch/csrc/autograd/FunctionsManual.cpp, linalg_vector_norm_backward and
div_tensor_other_grad.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.result_types import result_type

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def normalize(x: Tensor) -> Tensor:
    """Return torch.nn.functional.normalize(x, p=2, dim=-1)."""
    norms = indexing.clamp(_norm(x), "norms, clamped", two_bounds=False)
    return divide(x, ops.expand(norms, x.shape), "normalized")


def _norm(x: Tensor) -> Tensor:
    """Return x.norm(2, -1, keepdim=True). x and the norms are saved."""
    node = Node(x.tape, _norm_back, (x.edge,)) if x.edge else None
    norms = x.tape.new((*x.shape[:-1], 1), x.dtype, "norms", node)
    if node is not None:
        node.save(x)
        node.save(norms)
    return norms


def _norm_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    x, norms = node.saved
    directions = grad.tape.scratch(x.shape, x.dtype, "x / norms")
    zeros = grad.tape.scratch(norms.shape, "bool", "norms that are zero")
    out = grad.tape.new(x.shape, x.dtype, "norm: gradient")
    del zeros, directions
    return (out,)


def divide(x: Tensor, divisor: Tensor, name: str) -> Tensor:
    """Return x / divisor. The divisor broadcasts to x.

    Both need a gradient, so both are saved.
    """
    node = Node(x.tape, _divide_back, (x.edge, divisor.edge)) if x.edge else None
    if node is not None:
        node.save(divisor)
        node.save(x)
    return x.tape.new(x.shape, result_type(x.dtype, divisor.dtype), name, node)


def _divide_back(_: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    quotients = [grad.tape.scratch(grad.shape, grad.dtype, f"x / divisor{power}") for power in ("", "²")]
    negative = grad.tape.scratch(grad.shape, grad.dtype, "gradient, negated")
    divisor_grad = grad.tape.new(grad.shape, grad.dtype, "division: gradient of the divisor")
    del negative, quotients
    return grad.tape.new(grad.shape, grad.dtype, "division: gradient"), divisor_grad
