"""Products with 4-bit weights as bitsandbytes runs them for more than a few tokens: dequantise, then multiply."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from validation.emulations.autocast import lowered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def gemm_4bit(
    A: Tensor,
    B: Tensor,
    shapeB: Sequence[int],
    absmax: Tensor,
    blocksize: int,
    quant_type: str,
    bias: Tensor | None = None,
    absmax_8bit: Tensor | None = None,
    absmax_code: Tensor | None = None,
    absmax_offset: Tensor | None = None,
) -> Tensor:
    """A (..., in_features) times the transpose of a 4-bit B (out_features, in_features); under autocast, in its dtype.

    References:
        bitsandbytes/backends/cuda/ops.py, `_dequant_linear_fallback`.
    """
    if absmax_8bit is not None:
        absmax_dq = torch.ops.bitsandbytes.dequantize_blockwise(absmax_8bit, absmax, absmax_code, 256, torch.float32)
        absmax = absmax_dq + absmax_offset
    B_dq = torch.ops.bitsandbytes.dequantize_4bit(B, absmax, blocksize, quant_type, shapeB, A.dtype)
    return torch.nn.functional.linear(*lowered(A, B_dq, bias))
