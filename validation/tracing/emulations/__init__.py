"""Kernels that allocate on the meta device what their CUDA sources allocate on a GPU."""

from collections.abc import Callable
from typing import Any

import bitsandbytes  # noqa: F401  (registers its operations)
import torch

from validation.tracing.emulations import attention, eightbit, experts, fourbit, functional, release, sparse

_ATEN = torch.ops.aten

#: The emulation of each operation that a trace does not run unchanged.
KERNELS: dict[Any, Callable[..., Any]] = {
    _ATEN._scaled_dot_product_flash_attention.default: attention.flash_forward,
    _ATEN._scaled_dot_product_flash_attention_backward.default: attention.flash_backward,
    _ATEN._scaled_dot_product_efficient_attention.default: attention.efficient_forward,
    _ATEN._scaled_dot_product_efficient_attention_backward.default: attention.efficient_backward,
    _ATEN._safe_softmax.default: functional.safe_softmax,
    _ATEN.index.Tensor: functional.masked_index,
    _ATEN.log_sigmoid_forward.default: functional.log_sigmoid_forward,
    _ATEN.log_sigmoid_backward.default: functional.log_sigmoid_backward,
    _ATEN.logsumexp.default: functional.logsumexp,
    _ATEN.multinomial.default: functional.multinomial,
    _ATEN.mse_loss.default: functional.mse_loss,
    _ATEN.binary_cross_entropy_with_logits.default: functional.binary_cross_entropy_with_logits,
    _ATEN.scatter_add.default: functional.scatter_add,
    _ATEN.masked_scatter.default: functional.masked_scatter,
    _ATEN.masked_scatter_backward.default: functional.masked_scatter_backward,
    _ATEN.native_layer_norm.default: functional.layer_norm,
    _ATEN.native_layer_norm_backward.default: functional.layer_norm_backward,
    _ATEN._linalg_svd.default: functional.linalg_svd,
    _ATEN.linalg_inv_ex.default: functional.linalg_inv_ex,
    _ATEN.dist.default: functional.dist,
    _ATEN.linalg_pinv.atol_rtol_tensor: functional.linalg_pinv,
    # PyTorch has it from 2.8 on.
    **({_ATEN._grouped_mm.default: experts.grouped_mm} if hasattr(_ATEN, "_grouped_mm") else {}),
    # PyTorch has it from 2.8 on, and for the meta device from a later release on.
    **({_ATEN.addmm.dtype_out: functional.addmm_into} if hasattr(_ATEN.addmm, "dtype_out") else {}),
    _ATEN.add_.Tensor: sparse.add_,
    _ATEN.sparse_mask.default: sparse.sparse_mask,
    _ATEN._fused_adamw_.default: lambda *_, **__: None,
    torch.ops.bitsandbytes.gemm_4bit.default: fourbit.gemm_4bit,
    **{
        getattr(torch.ops.bitsandbytes, kernel.__name__).default: kernel
        for kernel in (
            eightbit.int8_vectorwise_quant,
            eightbit.int8_linear_matmul,
            eightbit.int8_mm_dequant,
            eightbit.int8_scaled_mm,
            eightbit.int8_mixed_scaled_mm,
            eightbit.int8_vectorwise_dequant,
        )
    },
}

_LAYER_NORMS = (_ATEN.native_layer_norm.default, _ATEN.native_layer_norm_backward.default)


def kernel_for(func: Any, args: Any) -> Callable[..., Any] | None:
    """Return the emulation of an operation; None if a trace runs it unchanged."""
    if func is _ATEN.index.Tensor and not functional.has_mask(args[1]):
        return None
    if func in _LAYER_NORMS and not functional.needs_copies(func, args):
        return None
    if func is _ATEN.add_.Tensor and not _is_sparse(args[1]):
        return None
    if func is _ATEN.scatter_add.default and not functional.is_in_backward():
        return None
    return KERNELS.get(func) or release.product_of(func)


def _is_sparse(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.layout is torch.sparse_coo


#: Descriptions of the emulations, for a trace's output.
EMULATIONS = (
    "attention kernels: outputs, saved statistics and backward scratch as their CUDA sources allocate them",
    "4-bit products: bitsandbytes' dequantize-then-multiply path, forward and backward",
    "8-bit products: bitsandbytes' CUDA path for inputs without outliers, forward and backward",
    "dropout: fused, with a boolean mask; float16 softmax to float32: fused; Mish's gradient: one kernel",
    "a sampled token: exponential numbers for each probability, and their quotients in place",
    "pseudoinverse: its operations one by one, without cuSOLVER's workspace",
    "layer norm: copies of an input and a gradient in another layout",
    "sums and masks of sparse tensors: with their temporaries",
    "log-sigmoid: no buffer; mean squared error, binary cross entropy, logsumexp: with their temporaries",
    "gradients of gathered elements: added to zeros in place, as without a dispatch mode",
    "two gradients of one tensor: added in place if nothing else refers to the first, as without a dispatch mode",
    "fused optimizers: no temporaries; paged states of 100,000 elements or more are in managed memory and not counted",
    "grouped products of experts: one output, in any dtype",
    "flash attention's output has the layout (batch, seq, heads, head_dim) for queries of any layout",
    "flash_attention_2 runs as SDPA's copy of the kernel, which saves one more 512-byte scalar per layer",
)

__all__ = ["EMULATIONS", "KERNELS", "kernel_for"]
