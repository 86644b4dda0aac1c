"""A linear layer with an update computed from its weight (peft.tuners.peanut.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.layers.activation import activation

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.peanut.method import PEANuT

#: The names within a module of the first and the last matrix, and of those in between.
A, B = "peanut_A.weight", "peanut_B.weight"
ENCODERS, DECODERS = "peanut_encoders", "peanut_decoders"


def forward(method: PEANuT, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module plus the product with the dense update."""
    result = bound.base(x)
    update = _update(method, bound)
    x = ops.cast(x, update.dtype, "input in the update's dtype")
    delta = products.matmul(x, ops.view(update, update.shape[::-1]), None, bound.module.out_features, "update · x")
    return ops.add(result, ops.cast(delta, result.dtype, "update · x in the output's dtype"), "result + update")


def _update(method: PEANuT, bound: BoundModule) -> Tensor:
    """Return the dense update, a transposed view: (out_features, in_features).

    Its local variables stay until it is computed.
    """
    act, first = activation(method.act_fn), bound.added[A]
    weight = bound.own["weight"].detach()
    transposed = ops.cast(ops.view(weight, weight.shape[::-1]), first.dtype, "weight in the matrices' dtype")
    dense = act(products.matmul(transposed, ops.view(first, first.shape[::-1]), None, first.shape[0], "A·W"))
    residuals: list[Tensor] = []
    for number in range(method.depth):
        residuals.append(dense)
        dense = act(_product(bound, dense, f"{ENCODERS}.{number}.weight"))
    for number in range(method.depth):
        dense = act(_product(bound, dense, f"{DECODERS}.{number}.weight"))
        dense = ops.add(dense, residuals[method.depth - 1 - number], "decoder + residual")
    dense = _product(bound, dense, B)
    scaled = ops.scale(dense, "dense update, scaled")
    return ops.view(scaled, scaled.shape[::-1])


def _product(bound: BoundModule, x: Tensor, name: str) -> Tensor:
    weight = bound.added[name]
    return products.matmul(x, weight, None, weight.shape[0], name.removesuffix(".weight"))
