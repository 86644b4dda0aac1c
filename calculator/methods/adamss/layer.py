"""A linear layer with an update for each subspace of its outputs (peft.tuners.adamss.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names of the factors of each subspace and of the frozen projection within a module.
A, B, PROJECTION = "adamss_A", "adamss_B", "adamss_newB"


def forward(bound: BoundModule, x: Tensor, subspaces: int) -> Tensor:
    """Return the output of the frozen module plus the subspaces' products, each added at its outputs."""
    dtype, adapter_dtype = x.dtype, bound.module_spec.dtype
    x = ops.cast(x, adapter_dtype, "input in the weight's dtype")
    extended = _with_ones(x, adapter_dtype) if bound.module.bias is not None else x
    result = bound.base(x)
    projection = ops.cast(bound.added[PROJECTION], adapter_dtype, "projection in the weight's dtype")
    projected = products.matmul(extended, projection, None, projection.shape[0], "projected input")
    del projection
    chunks = []
    for number in range(subspaces):
        a = ops.cast(bound.added[f"{A}.{number}"], adapter_dtype, "A in the weight's dtype")
        b = ops.cast(bound.added[f"{B}.{number}"], adapter_dtype, "B in the weight's dtype")
        inner = products.matmul(projected, a, None, a.shape[0], "A·x")
        inner = products.matmul(inner, b, None, b.shape[0], "B·A·x")
        chunks.append(inner)
    update = ops.cat(chunks, (*x.shape[:-1], bound.module.out_features), "updates of the subspaces")
    indices = x.tape.new((bound.module.out_features,), "int64", "outputs of the subspaces")
    update = _scattered(update, indices)
    result = ops.add(result, update, "result + update")
    return ops.cast(result, dtype, "output")


def _with_ones(x: Tensor, dtype: DType) -> Tensor:
    """Return the input with a column of ones, which multiplies the row of the bias in the projection."""
    ones = x.tape.new((*x.shape[:-1], 1), dtype, "ones")
    width = named(int(x.shape[-1]) + 1, "in_features + 1")
    return ops.cat((x, ones), (*x.shape[:-1], width), "input with ones")


def _scattered(update: Tensor, indices: Tensor) -> Tensor:
    """Return zeros.scatter(-1, indices, update). The indices are saved."""
    zeros = update.tape.scratch(update.shape, update.dtype, "zeros")
    node = Node(update.tape, _gathered, (update.edge,), update.shape) if update.edge else None
    if node is not None:
        node.save(indices)
    out = update.tape.new(update.shape, update.dtype, "update", node)
    del zeros
    return out


def _gathered(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "updates of the subspaces: gradient"),)
