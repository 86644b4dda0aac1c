"""A linear layer with a rotation between singular vectors (peft.tuners.psoft.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.tape import Tensor
from calculator.methods.psoft import rotation
from calculator.methods.targeted.adapted_linear import dropped

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.psoft.method import PSOFT

#: The names of the singular vectors within a module.
A, B = "_psoft_A_cache", "_psoft_B_cache"


def forward(method: PSOFT, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module plus B·(R - I)·A·x."""
    result = bound.base(x)
    dtype, width = result.dtype, bound.module.out_features
    x = ops.cast(x, "float32", "input in float32")
    first = Tensor(x.tape, None, (method.r, bound.module.in_features), "float32", None)
    dropped_x = dropped(x, method.psoft_dropout)
    inner = products.matmul(dropped_x, first, None, method.r, "A·x")
    turned = _rotate(method, bound, inner)
    delta = products.matmul(ops.subtract(turned, inner, "R·A·x - A·x"), bound.added[B], None, width, "update")
    result = ops.add(result, ops.scale(delta, "update, scaled"), "result + update")
    return ops.cast(result, dtype, "output")


def _rotate(method: PSOFT, bound: BoundModule, inner: Tensor) -> Tensor:
    turn = rotation.matrix(method, bound)
    turn = ops.cast(turn, inner.dtype, "rotation in float32")
    product = products.matmul(inner, ops.view(turn, turn.shape), None, method.r, "R·A·x")
    return ops.cast(product, inner.dtype, "R·A·x in float32")
