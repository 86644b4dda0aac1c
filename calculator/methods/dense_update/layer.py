"""A linear layer whose update is computed as a dense matrix (peft.tuners.lycoris_utils, LycorisLayer.forward)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.result_types import result_type
from calculator.methods.costs import OtherOperations

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule


def forward(bound: BoundModule, x: Tensor, delta: Callable[[BoundModule], Tensor]) -> Tensor:
    """Return the output of the frozen module plus the product with the update, (out_features, in_features)."""
    dtype = x.dtype
    result = bound.base_layer(x)
    result = ops.add(result, _product(bound, x, delta), "result + update")
    return ops.cast(result, dtype, "output")


def _product(bound: BoundModule, x: Tensor, delta: Callable[[BoundModule], Tensor]) -> Tensor:
    weight = delta(bound)
    x = ops.cast(x, weight.dtype, "input in the update's dtype")
    return products.matmul(x, weight, None, bound.module.out_features, "update")


def drop_rows(weight: Tensor, probability: float, dtype: DType) -> Tensor:
    """Multiply the update in place with a mask of its rows, in training."""
    if not probability or not weight.tape.trains:
        return weight
    kept = weight.tape.new((weight.shape[0], 1), dtype, "rows that are kept")
    node = Node(weight.tape, _drop_rows_back, (weight.edge,)) if weight.edge else None
    if node is None:
        return weight
    node.save(kept)
    out = ops.view(weight.detach(), weight.shape)
    out.edge = (node, 0, weight.shape, weight.dtype)
    return out


def _drop_rows_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return the gradient of a view that was changed in place.

    Source: torch/csrc/autograd/functions/tensor.cpp, CopySlices.
    """
    out = grad.tape.new(grad.shape, grad.dtype, "rows that are kept: gradient")
    copy = grad.tape.scratch(grad.shape, grad.dtype, "rows that are kept: gradient, copied")
    dtype = result_type(grad.dtype, node.saved[0].dtype)
    product = grad.tape.scratch(grad.shape, dtype, "rows that are kept: gradient of the product")
    del copy, product
    return (out,)


def dense_operations(matrices: Iterable[tuple[int, int, int]], batch: int) -> OtherOperations:
    """Return a token's product with each update, and its share of computing it.

    `matrices` are the number of equal matrices, the elements of each, and the operations that compute one.
    """
    count = sum(number * (2 * elements + forming // batch) for number, elements, forming in matrices)
    return OtherOperations(formula="2 × updates + computing them ÷ batch", count=count)
