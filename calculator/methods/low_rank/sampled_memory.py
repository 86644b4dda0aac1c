"""The tensors of initialisations that keep what samples gave for each module until its A and B are made.

The samples' own passes are the caller's and not counted. CorDA is taken to invert each covariance matrix at its first
try, and cuSOLVER's workspaces are not counted.

Source: peft 0.21, tuners/lora/corda.py (collect_eigens_for_layer, crop_corda_eigens), tuners/lora/loraga.py
(estimate_gradients) and tuners/lora/layer.py (corda_init, lora_ga_init); aten/src/ATen/native/BatchLinearAlgebra.cpp
(linalg_inv_ex_out, which solves with a factored copy).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ITEMSIZE, allocated

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.methods.low_rank.initial_memory import Temporaries, Weight

#: LoRA-GA decomposes a gradient into this many times the rank.
_SINGULAR_VECTORS = 4


def covariance_bytes(weight: Weight) -> int:
    """The matrix of a module's inputs, which CorDA keeps until all are decomposed."""
    return _size((weight.columns, weight.columns))


def singular_bytes(weight: Weight) -> int:
    """The singular values of a module, which CorDA keeps on the device."""
    return _size((weight.smaller,))


def offloaded_bytes(weight: Weight) -> int:
    """The singular vectors of a module, which CorDA keeps in host memory until all modules are decomposed."""
    return 4 * weight.smaller * (weight.rows + weight.columns)


def cropped_bytes(weight: Weight) -> int:
    """The singular values and vectors of a module as far as its rank needs them."""
    return _size((weight.rank,)) + _size((weight.rows, weight.rank)) + _size((weight.columns, weight.rank))


def gradient_bytes(weight: Weight) -> int:
    """The gradient of a module's weight, in the weight's dtype."""
    return _size(weight.shape, weight.dtype)


def corda_eigens(on: Temporaries, weight: Weight) -> None:
    """The weight times the covariance matrix is decomposed, and the result moves to the host."""
    square = (weight.columns, weight.columns)
    if weight.dtype != "float32":
        on.new("weight in float32", weight.shape)
    on.new("diagonal", square)
    on.new("covariance matrix + diagonal", square)
    on.new("inverse", square)
    on.new("factors of the covariance matrix", square)
    on.new("pivots", (weight.columns,), "int32")
    on.free("factors of the covariance matrix", "pivots")
    for name in ("matrix · inverse", "identity", "difference"):
        on.new(name, square)
    on.new("distance", ())
    on.free("matrix · inverse", "identity", "difference", "distance")
    on.new("weight · covariance matrix", weight.shape)
    if weight.dtype != "float32":
        on.free("weight in float32")
    on.svd(weight.shape)
    on.new("right singular vectors · inverse", (weight.smaller, weight.columns))


def corda(on: Temporaries, weight: Weight) -> None:
    """The singular vectors become A and B, and the weight loses their product."""
    if weight.dtype != "float32":
        on.new("weight in float32", weight.shape)
    on.new("A", (weight.rank, weight.columns))
    on.new("B", (weight.rows, weight.rank))
    on.new("B·A", weight.shape)
    on.new("weight - B·A", weight.shape)
    if weight.dtype != "float32":
        on.free("weight in float32")
        on.new("weight - B·A in its dtype", weight.shape, weight.dtype)


def lora_ga(on: Temporaries, weight: Weight) -> None:
    """Singular vectors of the gradient become A and B, and the weight loses their product.

    A is a view of the right singular vectors of a tall matrix, and a copy of those of a wide one, which are transposed.
    """
    kept, is_wide, casts = _singular_vectors(weight), weight.rows < weight.columns, weight.dtype != "float32"
    if casts:
        on.new("gradient in float32", weight.shape)
    on.new("left singular vectors", (weight.rows, kept))
    on.new("singular values", (kept,))
    on.new("right singular vectors", (weight.columns, kept))
    on.new("B", (weight.rows, weight.rank), weight.dtype)
    if casts:
        on.new("A", (weight.rank, weight.columns), weight.dtype)
    if is_wide:
        on.new("A, contiguous", (weight.rank, weight.columns), weight.dtype)
    if casts:
        on.new("weight in float32", weight.shape)
        on.new("B in float32", (weight.rows, weight.rank))
        on.new("A in float32", (weight.rank, weight.columns))
    on.new("B·A", weight.shape)
    if casts:
        on.free("B in float32", "A in float32")
    on.new("B·A, scaled", weight.shape)
    on.free("B·A")
    on.new("weight - B·A", weight.shape)
    if casts:
        on.free("weight in float32")
        on.new("weight - B·A in its dtype", weight.shape, weight.dtype)


def shared_bytes(weight: Weight) -> int:
    """The rest of A's storage where A is a view of all right singular vectors: over tall float32 weights."""
    if weight.dtype != "float32" or weight.rows < weight.columns:
        return 0
    return _size((weight.columns, _singular_vectors(weight))) - _size((weight.rank, weight.columns))


def _singular_vectors(weight: Weight) -> int:
    return min(_SINGULAR_VECTORS * weight.rank, weight.smaller)


#: What makes A and B from what is kept of each module, and the bytes that are kept until then.
OF_SAMPLES: dict[str, tuple[Callable[[Temporaries, Weight], None], Callable[[Weight], int]]] = {
    "corda": (corda, cropped_bytes),
    "lora_ga": (lora_ga, gradient_bytes),
}


def _size(shape: Shape, dtype: DType = "float32") -> int:
    return allocated(elements(shape), ITEMSIZE[dtype])
