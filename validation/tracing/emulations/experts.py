"""Grouped matrix products of experts, in every dtype; the meta kernel accepts bfloat16 only."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def grouped_mm(
    mat_a: Tensor,
    mat_b: Tensor,
    offs: Tensor | None = None,
    bias: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """Return one product per group; only the output is allocated, with rows padded to 16 bytes.

    References:
        ATen/native/GroupedMMUtils.h, `create_grouped_gemm_output_tensor`; ATen/native/cuda/GroupedBlas.cpp, where
        `_grouped_mm_fallback` multiplies group by group into the output for dtypes other than bfloat16.
    """
    dtype = out_dtype or mat_a.dtype
    rows, columns = mat_a.shape[-2], mat_b.shape[-1]
    if mat_a.dim() != mat_b.dim():
        shape: tuple[int, ...] = (rows, columns)
    else:
        shape = (mat_a.shape[0] if offs is None else offs.shape[0], rows, columns)
    row = -(-shape[-1] * dtype.itemsize // 16) * 16 // dtype.itemsize
    strides = (shape[1] * row, row, 1) if len(shape) == 3 else (row, 1)
    return torch.empty_strided(shape, strides, dtype=dtype, device=mat_a.device)
