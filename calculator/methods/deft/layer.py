"""A linear layer with a removed and an injected part (peft.tuners.deft.layer.DeftLinear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.parameter_views import viewed
from calculator.methods.targeted.adapted_linear import called_dropout

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names of the parameters within their module.
P, R = "deft_P", "deft_R"


def forward(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Run everything after the frozen product in float32."""
    dtype = x.dtype
    base = bound.base_layer(x)
    result = ops.cast(base, "float32", "output in float32")
    product = _without_bias(bound, result)
    x = ops.cast(x, "float32", "input in float32")
    direction = ops.cast(bound.added[P], "float32", "P in float32")
    right = ops.unary(direction, "relu(P)", saves="result")
    removed = _removed(product, right, direction, bound)
    result = ops.subtract(result, removed, "output without the removed part")
    if R in bound.added:
        injected = ops.scale(ops.cast(bound.added[R], "float32", "R in float32"), "R, scaled")
        dropped_x = called_dropout(bound, "deft_dropout", x, dropout)
        result = ops.add(result, _injected(dropped_x, injected, direction, bound), "output with the injected part")
    return ops.cast(result, dtype, "output")


def _without_bias(bound: BoundModule, result: Tensor) -> Tensor:
    bias = bound.own.get("bias")
    if bias is None:
        return result
    return ops.subtract(result, ops.cast(bias, "float32", "bias in float32"), "output without the bias")


def _removed(product: Tensor, right: Tensor, direction: Tensor, bound: BoundModule) -> Tensor:
    inner = products.addmm(product, right, None, right.shape[1], "output · relu(P)")
    return products.addmm(inner, _transposed(direction), None, bound.module.out_features, "removed part")


def _injected(x: Tensor, injected: Tensor, direction: Tensor, bound: BoundModule) -> Tensor:
    inner = products.matmul(x, injected, None, injected.shape[0], "R · x")
    return products.addmm(inner, _transposed(direction), None, bound.module.out_features, "P · R · x")


def _transposed(direction: Tensor) -> Tensor:
    return viewed(direction, direction.shape[::-1])
