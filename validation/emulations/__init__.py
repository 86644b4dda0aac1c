"""CUDA kernels whose allocations their meta versions hide, written out as the tensors that their sources allocate."""

from collections.abc import Callable
from typing import Any

import bitsandbytes  # noqa: F401  (registers its operations)
import torch

from validation.emulations import attention, fourbit

_ATEN = torch.ops.aten

#: The operations that a trace runs as emulated here.
KERNELS: dict[Any, Callable[..., Any]] = {
    _ATEN._scaled_dot_product_flash_attention.default: attention.flash_forward,
    _ATEN._scaled_dot_product_flash_attention_backward.default: attention.flash_backward,
    _ATEN._scaled_dot_product_efficient_attention.default: attention.efficient_forward,
    _ATEN._scaled_dot_product_efficient_attention_backward.default: attention.efficient_backward,
    _ATEN._fused_adamw_.default: lambda *_, **__: None,
    torch.ops.bitsandbytes.gemm_4bit.default: fourbit.gemm_4bit,
}

__all__ = ["KERNELS"]
