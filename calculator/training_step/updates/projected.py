"""Projections of a gradient that are recomputed, and updates that are projected back.

Sources: galore_torch/galore_projector.py; apollo_torch/random_projector.py; torch.linalg.svd with the gesvdj driver
(aten/src/ATen/native/cuda/linalg/BatchLinearAlgebraLib.cpp), whose workspace of cuSOLVER is not counted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.projection import Projection
    from calculator.resident.tensor import ResidentTensor


def gradient(tape: Tape, p: ResidentTensor, projection: Projection, dtype: DType) -> Tensor:
    """Return the projected gradient of a step that recomputes the projection.

    The old projection is freed after the new one exists. `dtype` is that of the gradient.
    """
    renewed = (_singular_vectors if projection.decomposes else _random)(tape, p, projection, dtype)
    del renewed  # it replaces the old projection, which is an optimizer state
    return tape.new(projection.projected(p.shape), dtype, f"{p.name}: gradient, projected")


def back(tape: Tape, p: ResidentTensor, dtype: DType) -> Tensor:
    """Return an update in the parameter's shape, times the scale."""
    update = tape.new(p.shape, dtype, f"{p.name}: update, projected back")
    scaled = tape.new(p.shape, dtype, f"{p.name}: update, scaled")
    del update
    return scaled


def _singular_vectors(tape: Tape, p: ResidentTensor, projection: Projection, dtype: DType) -> Tensor:
    (rows, columns), rank = p.shape, projection.rank_of(p.shape)
    smaller = min(rows, columns)
    matrix = None if dtype == "float32" else tape.new(p.shape, "float32", f"{p.name}: gradient in float32")
    left = tape.new((rows, smaller), "float32", f"{p.name}: left singular vectors")
    values = tape.new((smaller,), "float32", f"{p.name}: singular values")
    right = tape.new((smaller, columns), "float32", f"{p.name}: right singular vectors")
    info = tape.new((), "int32", "torch.linalg.svd: info")
    copied = tape.new(p.shape, "float32", f"{p.name}: gradient, copied for torch.linalg.svd")
    del copied, info
    side = projection.side(p.shape)
    diagonal = tape.new((rank, rank), "float32", f"{p.name}: diagonal of singular values")
    unused = tape.new((rows, rank) if side == "right" else (rank, columns), "float32", f"{p.name}: other factor")
    del diagonal
    kept = right if side == "right" else left
    if dtype != "float32":
        kept = tape.new(projection.matrix(p.shape), dtype, f"{p.name}: projection")
    del matrix, left, values, right, unused
    return kept


def _random(tape: Tape, p: ResidentTensor, projection: Projection, dtype: DType) -> Tensor:
    matrix = None if dtype == "float32" else tape.new(p.shape, "float32", f"{p.name}: gradient in float32")
    shape = projection.matrix(p.shape)
    normal = tape.new(shape, "float32", f"{p.name}: random numbers")
    kept = tape.new(shape, "float32", f"{p.name}: projection in float32")
    del normal
    if dtype != "float32":
        kept = tape.new(shape, dtype, f"{p.name}: projection")
    del matrix
    return kept
