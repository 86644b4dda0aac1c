"""A linear layer with an update between singular vectors (peft.tuners.tinylora.layer.Linear and Embedding)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.methods.targeted.adapted_linear import dropped

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names of the trained vector, the frozen singular vectors, and the frozen random matrices.
V, A, B, P = "tinylora_v", "tinylora_A", "tinylora_B", "tinylora_P"


def forward(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Return the output of the frozen module plus B·R·A·x."""
    dtype = x.dtype
    result = bound.base(x)
    mixed = _mixed(bound)
    a, b = bound.added[A], bound.added[B]
    x = ops.cast(dropped(x, dropout), a.dtype, "input in A's dtype")
    inner = products.matmul(x, a, None, a.shape[0], "A·x")
    inner = products.matmul(inner, mixed, None, a.shape[0], "R·A·x")
    update = products.matmul(inner, b, None, b.shape[0], "B·R·A·x")
    result = ops.add(result, update, "result + update")
    return ops.cast(result, dtype, "output")


def embedding_forward(bound: BoundModule, ids: Tensor, result: Tensor, dropout: float) -> Tensor:
    """Return the frozen rows plus rows of B times R·A."""
    mixed = _mixed(bound)
    a, b = (ops.cast(bound.added[name], result.dtype, "singular vectors in the rows' dtype") for name in (A, B))
    mixed = ops.cast(mixed, result.dtype, "R in the rows' dtype")
    rows = dropped(products.embedding(ids, b, b.shape[1], "rows of B"), dropout)
    inner = products.matmul(rows, mixed, None, a.shape[0], "rows · R")
    update = products.matmul(inner, a, None, a.shape[1], "rows · R · A")
    return ops.add(result, update, "result + update")


def _mixed(bound: BoundModule) -> Tensor:
    """Return the weighted sum of the random matrices: (r, r).

    Autocast casts the parameter, because torch.einsum receives it directly.
    """
    vector, matrices = bound.added[V], bound.added[P]
    if vector.tape.autocast is not None:
        vector = vector.tape.autocast.cached_cast(vector, "vector")
    u, r, _ = matrices.shape
    product = products.bmm(ops.view(vector, (1, 1, u)), ops.view(matrices, (1, u, r * r)), (1, 1, r * r), "R")
    return ops.view(product, (r, r))
