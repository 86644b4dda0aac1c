"""What CUDA allocates and the meta device does not, written out as the tensors that the kernels' sources allocate."""

from collections.abc import Callable
from typing import Any

import bitsandbytes  # noqa: F401  (registers its operations)
import torch

from validation.tracing.emulations import attention, experts, fourbit, functional

_ATEN = torch.ops.aten

#: The operations that a trace runs as emulated here.
KERNELS: dict[Any, Callable[..., Any]] = {
    _ATEN._scaled_dot_product_flash_attention.default: attention.flash_forward,
    _ATEN._scaled_dot_product_flash_attention_backward.default: attention.flash_backward,
    _ATEN._scaled_dot_product_efficient_attention.default: attention.efficient_forward,
    _ATEN._scaled_dot_product_efficient_attention_backward.default: attention.efficient_backward,
    _ATEN._safe_softmax.default: functional.safe_softmax,
    _ATEN._grouped_mm.default: experts.grouped_mm,
    _ATEN._fused_adamw_.default: lambda *_, **__: None,
    torch.ops.bitsandbytes.gemm_4bit.default: fourbit.gemm_4bit,
}

#: What an answer says of them.
TOLD = (
    "attention kernels: outputs, saved statistics and backward scratch as their CUDA sources allocate them",
    "4-bit products: bitsandbytes' dequantise-then-multiply path, forward and backward",
    "dropout: fused, with a boolean mask; float16 softmax to float32: fused; Mish's gradient: one kernel",
    "gradients that meet: added in place where their buffer is the only reference, as autograd does without a watcher",
    "fused optimizers: no temporaries; paged states of 100,000 elements and more: managed memory, not counted",
    "grouped products of experts: one output, in any dtype",
    "flash attention's output is laid out (batch, seq, heads, head_dim) whatever its queries' layout",
    "flash_attention_2 runs as SDPA's copy of the kernel, which keeps one 512-byte scalar more a layer",
)

__all__ = ["KERNELS", "TOLD"]
