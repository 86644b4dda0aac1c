"""A linear layer whose weight is reflected (peft.tuners.hra.layer.HRALinear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autocast import reduction_dtype
from calculator.engine.autograd import Node
from calculator.engine.parameter_views import viewed

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The parameter's name within its module.
VECTORS = "hra_u"


def forward(bound: BoundModule, x: Tensor, r: int) -> Tensor:
    """Return the product with W · (I - 2 u₁ u₁ᵀ) · (I - 2 u₂ u₂ᵀ) · ..."""
    dtype = x.dtype
    width = bound.module.in_features
    eye = x.tape.scratch((width, width), "float32", "identity matrix")
    reflections = _reflections(bound, r)
    eye = ops.cast(eye, reflections.dtype, "identity matrix in the vectors' dtype")
    reflections_of_one = products.addmm(eye, reflections, None, width, "I · reflections")
    del eye
    given = bound.own["weight"]
    weight = ops.cast(viewed(given, given.shape), reflections_of_one.dtype, "weight in the vectors' dtype")
    reflected = products.addmm(weight, reflections_of_one, None, width, "reflected weight")
    del reflections_of_one
    bias = bound.own.get("bias")
    if bias is not None:
        bias = ops.cast(bias, reflected.dtype, "bias in the vectors' dtype")
    x = ops.cast(x, reflected.dtype, "input in the vectors' dtype")
    result = products.matmul(x, reflected, bias, bound.module.out_features, "output")
    return ops.cast(result, dtype, "output")


def _reflections(bound: BoundModule, r: int) -> Tensor:
    vectors = _normalized(bound.added[VECTORS])
    width = bound.module.in_features
    weight = vectors.tape.scratch((width, width), vectors.dtype, "identity matrix")
    for _ in range(int(r)):
        column = _column(vectors)
        weight = ops.subtract(weight, _reflection(weight, column), "reflections")
    return weight


def _reflection(weight: Tensor, column: Tensor) -> Tensor:
    """Return 2 · weight @ u @ u.T."""
    width = weight.shape[0]
    return products.addmm(
        _twice_product(weight, column), ops.view(column, (1, width)), None, width, "2 · weight · u · uᵀ"
    )


def _twice_product(weight: Tensor, column: Tensor) -> Tensor:
    return products.addmm(ops.scale(weight, "2 · weight"), column, None, 1, "2 · weight · u")


def _column(vectors: Tensor) -> Tensor:
    """Return vectors[:, i] as a column. Its gradient is written into zeros."""
    return ops.slice_from_end(vectors, (vectors.shape[0], 1))


def _normalized(vectors: Tensor) -> Tensor:
    """Return vectors / vectors.norm(dim=0).

    Autocast computes the norm in float32, so the quotient is float32 too.
    """
    tape, dtype = vectors.tape, reduction_dtype(vectors)
    node = Node(tape, _normalized_back, (vectors.edge,)) if vectors.edge else None
    copy = None if dtype == vectors.dtype else tape.new(vectors.shape, dtype, f"vectors in {dtype}")
    norm = tape.new((vectors.shape[1],), dtype, "norms")
    if node is not None:
        node.save(vectors)
        node.save(norm)
        if copy is not None:
            node.save(copy)
    del copy
    return tape.new(vectors.shape, dtype, "normalized vectors", node)


def _normalized_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    tape, vectors = grad.tape, node.saved[0]
    out = tape.new(vectors.shape, grad.dtype, "division: gradient")
    direction = tape.scratch(vectors.shape, grad.dtype, "vectors / norms")
    del direction
    return (ops.cast(out, vectors.dtype, "division: gradient, cast"),)
