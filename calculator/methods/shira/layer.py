"""A linear layer whose weight is copied and changed at some elements (peft.tuners.shira.layer.Linear).

The update is a sparse COO tensor. On CUDA, PyTorch adds it to the copy in the common dtype of both. Its gradient has
the elements of the dense gradient at the indices.

Sources: ATen/native/sparse/cuda/SparseCUDATensorMath.cu, add_out_dense_sparse_cuda; ATen/native/sparse/
SparseTensor.cpp, sparse_mask; SparseTensorMath.cpp, _mul_dense_sparse_out; FlattenIndicesCommon.h.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.in_place import add_
from calculator.engine.result_types import result_type
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule

#: The names of the trained elements and of their positions within a module.
WEIGHT, INDICES = "shira_weight", "shira_indices"


def forward(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the product with the changed copy of the weight."""
    weight = _changed(bound)
    return products.matmul(x, weight, bound.own.get("bias"), bound.module.out_features, "product")


def _changed(bound: BoundModule) -> Tensor:
    frozen = bound.own["weight"].detach()
    weight = ops.clone(frozen, "weight, copied")
    values = ops.scale(bound.added[WEIGHT], "elements, scaled")
    tape, shape = values.tape, (bound.module.out_features, bound.module.in_features)
    indices = tape.new((2, *values.shape), "int64", "indices in int64")
    node = Node(tape, _masked, (values.edge,)) if values.edge else None
    if node is not None:
        node.save(indices)
        node.save(values)
    update = Tensor(tape, values.storage, shape, values.dtype, node)
    _add_in_common_dtype(weight, values)
    return add_(weight, update)


def _add_in_common_dtype(weight: Tensor, values: Tensor) -> None:
    """Allocate the temporaries of the sum: copies in the common dtype, and one index for each element."""
    tape, dtype = weight.tape, result_type(weight.dtype, values.dtype)
    copies = []
    if weight.dtype != dtype:
        copies += [tape.scratch(weight.shape, dtype, f"weight {name}") for name in ("with the update", "in its dtype")]
    if values.dtype != dtype:
        copies.append(tape.scratch(values.shape, dtype, "elements in the weight's dtype"))
    copies.append(tape.scratch(values.shape, "int64", "indices of the flat weight"))
    copies.clear()


def _masked(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return the elements of the dense gradient at the indices, times ones."""
    tape, (indices, values) = grad.tape, node.saved
    one = tape.scratch((1,), values.dtype, "one")
    grad_at_indices = tape.scratch(values.shape, grad.dtype, "gradient at the indices")
    copied = tape.scratch(indices.shape, "int64", "indices, copied")
    out = tape.new(values.shape, grad.dtype, "elements: gradient")
    del one, grad_at_indices, copied
    return (out,)
