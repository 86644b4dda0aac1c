"""A trained rotation of r dimensions (peft.tuners.psoft.layer.OrthLayer)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.methods.solving import solved

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.psoft.method import PSOFT

#: The names of the trained entries within a module, of the scaling vectors, and of the entries' indices.
WEIGHT, VECTOR_A, VECTOR_B = "psoft_R.weight", "psoft_R.vector_a", "psoft_R.vector_b"
ROWS, COLUMNS = "psoft_R.rows", "psoft_R.cols"


def matrix(method: PSOFT, bound: BoundModule) -> Tensor:
    """Return the rotation, scaled: (r, r)."""
    weight, r = bound.added[WEIGHT], method.r
    rotation = _rotation(method, weight) if method.psoft_orth else weight
    if VECTOR_B in bound.added:
        rotation = ops.mul(ops.view(bound.added[VECTOR_B], (r, 1)), rotation, "b · R")
    if VECTOR_A in bound.added:
        rotation = ops.mul(rotation, ops.view(bound.added[VECTOR_A], (1, r)), "R · a")
    return ops.cast(rotation, weight.dtype, "rotation in its entries' dtype")


def _rotation(method: PSOFT, weight: Tensor) -> Tensor:
    skew = _skew_symmetric(weight, method.r)
    identity = weight.tape.new(skew.shape, skew.dtype, "identity matrix")
    if method.use_cayley_neumann:
        return _series(skew, identity, method.num_cayley_neumann_terms)
    skew = ops.cast(skew, "float32", "Q - Qᵀ in float32")
    return solved(ops.subtract(identity, skew, "I - Q"), ops.add(identity, skew, "I + Q"))


def _skew_symmetric(weight: Tensor, r: int) -> Tensor:
    """Return Q - Qᵀ, where Q has the trained entries above its diagonal."""
    zeros = weight.tape.new((r, r), weight.dtype, "zeros")
    node = Node(weight.tape, _entries_back, (weight.edge,), weight.shape) if weight.edge else None
    upper = weight.tape.new((r, r), weight.dtype, "Q", node)
    del zeros
    return ops.subtract(upper, ops.view(upper, (r, r)), "Q - Qᵀ")


def _entries_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "entries: gradient"),)


def _series(skew: Tensor, identity: Tensor, terms: int) -> Tensor:
    """Return I + 2 Q + 2 Q² + ... + Qⁿ, added in place to a copy of the identity matrix."""
    total = ops.clone(identity, "rotation")
    if terms > 1:
        total = _add_(total, skew, doubled=True)
    if terms > 2:
        power = _matmul(skew, skew)
        total = _add_(total, power, doubled=True)
        for _ in range(3, terms - 1):
            power = _matmul(power, skew)
            total = _add_(total, power, doubled=True)
        total = _add_(total, _matmul(power, skew), doubled=False)
    return total


def _matmul(left: Tensor, right: Tensor) -> Tensor:
    return products.matmul(left, right, None, right.shape[1], "power of Q")


def _add_(total: Tensor, power: Tensor, *, doubled: bool) -> Tensor:
    """Compute `total.add_(power, alpha)`. The gradient of a doubled power is a doubled copy."""
    node = Node(total.tape, _add_back, (total.edge, power.edge), doubled) if total.edge or power.edge else None
    return Tensor(total.tape, total.storage, total.shape, total.dtype, node)


def _add_back(node: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    return grad, grad.tape.new(grad.shape, grad.dtype, "power: gradient") if node.context else grad
