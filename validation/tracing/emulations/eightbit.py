"""Matrix products with 8-bit weights (LLM.int8()), for inputs without outliers.

References:
    bitsandbytes/backends/cuda/ops.py, `int8_vectorwise_quant`, `int8_linear_matmul`, `int8_mm_dequant`;
    bitsandbytes/backends/default/ops.py, `int8_scaled_mm`, `int8_mixed_scaled_mm`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor


def int8_vectorwise_quant(A: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return rows in 8 bits with their scales, and no columns of outliers."""
    scales = A.new_empty(A.numel() // A.shape[-1], dtype=torch.float32)
    quantized = A.new_empty(A.shape, dtype=torch.int8)
    if threshold == 0:
        return quantized, scales, None
    outliers = A.abs() >= threshold
    outliers.any()  # is read, and false
    columns = A.new_empty(0, dtype=torch.int64)
    if len(scales) > 1:
        quantized[:, columns] = 0
    return quantized, scales, columns


def int8_linear_matmul(A: Tensor, B: Tensor) -> Tensor:
    """Return a (tokens, in_features) times the transpose of B (out_features, in_features), in int32."""
    out = A.new_empty((*A.shape[:-1], B.shape[0]), dtype=torch.int32)
    if B.shape[-1] % 4:
        out.copy_(torch.matmul(A.float(), B.float().t()).to(torch.int32))
    return out


def int8_mm_dequant(
    A: Tensor, row_stats: Tensor, col_stats: Tensor, dtype: torch.dtype | None = None, bias: Tensor | None = None
) -> Tensor:
    """Return the scaled product in float16, then in its dtype."""
    del row_stats, col_stats
    out = A.new_empty(A.shape, dtype=torch.float16)
    if bias is not None and bias.dtype != torch.float16:
        out.add_(bias)
    return out.to(dtype or torch.float16)


def int8_scaled_mm(
    A: Tensor,
    B: Tensor,
    row_stats: Tensor,
    col_stats: Tensor,
    bias: Tensor | None = None,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Return the product of two matrices in 8 bits, scaled."""
    product = torch.ops.bitsandbytes.int8_linear_matmul.default(A, B)
    return torch.ops.bitsandbytes.int8_mm_dequant.default(product, row_stats, col_stats, dtype=dtype, bias=bias)


def int8_mixed_scaled_mm(
    A: Tensor,
    CA: Tensor,
    CB: Tensor,
    SCA: Tensor,
    SCB: Tensor,
    outlier_cols: Tensor | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the scaled product, and no column of outliers."""
    assert outlier_cols is None or not outlier_cols.numel()
    outliers = A.new_empty(0)
    return torch.ops.bitsandbytes.int8_scaled_mm.default(CA, CB, SCA, SCB, bias=bias, dtype=A.dtype), outliers


def int8_vectorwise_dequant(A: Tensor, stats: Tensor) -> Tensor:
    """Return a dense copy in float32."""
    return A * stats.view(-1, 1) * 1.0
