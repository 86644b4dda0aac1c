"""Matrix products with 4-bit weights: bitsandbytes dequantizes the weight, then multiplies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from validation.tracing.emulations.autocast import lowered

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


#: Up to this many tokens, every GPU multiplies without a dense copy of the weight (`_GEMM_4BIT_CUSTOM_FLOOR_M`).
FUSED_TOKENS = 4


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
    """Return A (..., in_features) times the transpose of a 4-bit B (out_features, in_features), in autocast's dtype.

    Up to 4 tokens run in one kernel on every GPU. Some GPUs run up to 1,536 so; the emulation assumes none does.

    References:
        bitsandbytes/backends/cuda/ops.py, `gemm_4bit`, `_gemm_4bit_use_custom_cuda`, `_dequant_linear_fallback`.
    """
    if A.numel() // A.shape[-1] <= FUSED_TOKENS and A.shape[-1] % blocksize == 0:
        return A.new_empty((*A.shape[:-1], shapeB[0]))
    if absmax_8bit is not None:
        absmax_dq = torch.ops.bitsandbytes.dequantize_blockwise(absmax_8bit, absmax, absmax_code, 256, torch.float32)
        absmax = absmax_dq + absmax_offset
    B_dq = torch.ops.bitsandbytes.dequantize_4bit(B, absmax, blocksize, quant_type, shapeB, A.dtype)
    return torch.nn.functional.linear(*lowered(A, B_dq, bias))
