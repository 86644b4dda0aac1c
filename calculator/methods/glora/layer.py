"""A linear layer whose weight and bias are scaled and shifted (peft.tuners.glora.layer.GloraLinear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule


def forward(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the product with the changed weight.

    The frozen product is added and subtracted again.
    """
    base = bound.base(x)
    a, b, c, d, e = (_path(bound, f"glora_{name}") for name in "ABCDE")
    weight = _weight(bound, a, b)
    bias = None if bound.own.get("bias") is None else _bias(bound, c, (d, e))
    adapted = products.matmul(x, weight, bias, bound.module.out_features, "adapted output")
    result = ops.add(base, adapted, "output + adapted output")
    result = ops.subtract(result, ops.scale(base, "1 · output"), "adapted output")
    return ops.cast(result, base.dtype, "output")


def _path(bound: BoundModule, name: str) -> Tensor:
    """Return a path in the weight's dtype."""
    added, dtype = bound.added, bound.own["weight"].dtype
    if f"{name}.zeros" in added:
        return added[f"{name}.zeros"]
    if f"{name}.X" in added:
        x = added[f"{name}.X"]
        return ops.cast(ops.slice_from_end(x, ()) if x.shape == (1,) else x, dtype, "path in the weight's dtype")
    left, right = added[f"{name}.Xd"], added[f"{name}.Xu"]
    return ops.cast(
        products.matmul(left, right, None, right.shape[1], "path", turns=False),
        dtype,
        "path in the weight's dtype",
    )


def _weight(bound: BoundModule, a: Tensor, b: Tensor) -> Tensor:
    weight = bound.own["weight"]
    return ops.add(_sum_with(weight, ops.mul(weight, a, "weight · A")), b, "weight + weight · A + B")


def _sum_with(parameter: Tensor, product: Tensor) -> Tensor:
    return ops.add(parameter, product, "frozen one + scaled one")


def _bias(bound: BoundModule, c: Tensor, paths: tuple[Tensor, Tensor]) -> Tensor:
    d, e = paths
    bias, weight = bound.own["bias"], bound.own["weight"]
    first = ops.add(_sum_with(bias, ops.mul(bias, d, "bias · D")), e, "bias + bias · D + E")
    weight_term = products.matmul(weight, c, None, 1, "weight · C")
    return ops.add(first, ops.view(weight_term, bias.shape), "adapted bias")
