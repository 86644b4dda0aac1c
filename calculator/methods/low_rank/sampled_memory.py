"""The tensors of initializations that keep results of samples for each module until its A and B are computed.

The samples' own passes belong to the caller and are not counted. CorDA is assumed to invert each covariance matrix at
its first try. cuSOLVER's workspaces are not counted.

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

#: The multiple of the rank to which LoRA-GA decomposes a gradient.
_SINGULAR_VECTORS = 4


def covariance_bytes(weight: Weight) -> int:
    """Return the bytes of the covariance matrix of a module's inputs. CorDA keeps it until all are decomposed."""
    return _size((weight.columns, weight.columns))


def singular_bytes(weight: Weight) -> int:
    """Return the bytes of a module's singular values, which CorDA keeps on the device."""
    return _size((weight.smaller,))


def offloaded_bytes(weight: Weight) -> int:
    """Return the bytes of a module's singular vectors.

    CorDA keeps them in host memory until all modules are decomposed.
    """
    return 4 * weight.smaller * (weight.rows + weight.columns)


def cropped_bytes(weight: Weight) -> int:
    """Return the bytes of a module's singular values and vectors, cropped to its rank."""
    return _size((weight.rank,)) + _size((weight.rows, weight.rank)) + _size((weight.columns, weight.rank))


def gradient_bytes(weight: Weight) -> int:
    """Return the bytes of the gradient of a module's weight, in the weight's dtype."""
    return _size(weight.shape, weight.dtype)


def corda_eigens(on: Temporaries, weight: Weight) -> None:
    """Decompose the weight times the covariance matrix, and move the result to the host."""
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
    """Compute A and B from the singular vectors, and subtract their product from the weight."""
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
    """Compute A and B from singular vectors of the gradient, and subtract their product from the weight.

    A is a view of the right singular vectors of a tall matrix. For a wide matrix they are transposed, and A is a copy.
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
    """Return the rest of A's storage if A is a view of all right singular vectors, over tall float32 weights."""
    if weight.dtype != "float32" or weight.rows < weight.columns:
        return 0
    return _size((weight.columns, _singular_vectors(weight))) - _size((weight.rank, weight.columns))


def _singular_vectors(weight: Weight) -> int:
    return min(_SINGULAR_VECTORS * weight.rank, weight.smaller)


#: By initialization, the function that computes A and B from what is kept of each module, and the bytes that are kept
#: until then.
OF_SAMPLES: dict[str, tuple[Callable[[Temporaries, Weight], None], Callable[[Weight], int]]] = {
    "corda": (corda, cropped_bytes),
    "lora_ga": (lora_ga, gradient_bytes),
}


def _size(shape: Shape, dtype: DType = "float32") -> int:
    return allocated(elements(shape), ITEMSIZE[dtype])
