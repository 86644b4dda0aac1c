"""A linear layer with factors from one vector (peft.tuners.unilora.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.methods.targeted.adapted_linear import dropped

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names within a module of the vector, and of the tensors with which each factor's elements are looked up and
#: scaled.
THETA = "unilora_theta_d"
INDICES_A, INDICES_B = "unilora_indices_A", "unilora_indices_B"
SCALES_A, SCALES_B = "unilora_scales_A", "unilora_scales_B"


def forward(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Return the output of the frozen module plus the low-rank update."""
    dtype = x.dtype
    result = bound.base(x)
    first, second = _factor(bound, INDICES_A, SCALES_A), _factor(bound, INDICES_B, SCALES_B)
    x = ops.cast(x, bound.added[THETA].dtype, "input in the vector's dtype")
    result = ops.add(result, _update(dropped(x, dropout), first, second), "result + update")
    return ops.cast(result, dtype, "output")


def _update(x: Tensor, first: Tensor, second: Tensor) -> Tensor:
    inner = products.matmul(x, first, None, first.shape[0], "A·x")
    return products.matmul(inner, second, None, second.shape[0], "B·A·x")


def _factor(bound: BoundModule, indices: str, scales: str) -> Tensor:
    elements = indexing.index(bound.added[THETA], bound.added[indices], "elements of a factor")
    return ops.mul(elements, bound.added[scales], "factor")
