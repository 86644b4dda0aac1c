"""What torch does otherwise on the meta device than on CUDA, put right while a trace runs."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002, FBT001, FBT002, ARG001
    """Fused dropout with a boolean mask (ATen/native/Dropout.cpp, `is_fused_kernel_acceptable`)."""
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, train=True)[0]


def softmax(input: Tensor, dim: int, _stacklevel: int = 3, dtype: torch.dtype | None = None) -> Tensor:  # noqa: A002, ARG001
    """Softmax that reads float16 and writes float32 without a copy (ATen/native/SoftMax.cpp, `half_to_float`)."""
    if input.dtype == torch.float16 and dtype == torch.float32:
        return torch._softmax(input, dim, half_to_float=True)
    return input.softmax(dim, dtype=dtype)


def _padded(tensor: Tensor) -> Tensor:
    short = -tensor.shape[-1] % 8
    return torch.nn.functional.pad(tensor, (0, short)) if short else tensor


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,  # noqa: FBT001, FBT002
    scale: float | None = None,
    enable_gqa: bool = False,  # noqa: ARG001, FBT001, FBT002
) -> Tensor:
    """The composite of ATen/native/transformers/attention.cpp, choosing as CUDA does."""
    if attn_mask is None and query.dtype != torch.float32:
        return _flash(query, key, value, dropout_p, is_causal, scale)
    if attn_mask is not None:
        attn_mask = _bias(attn_mask, query, key)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query,
        key,
        value,
        attn_mask,
        query.requires_grad or key.requires_grad or value.requires_grad,
        dropout_p,
        is_causal,
        scale=scale,
    )[0]


def _flash(
    query: Tensor, key: Tensor, value: Tensor, dropout_p: float, is_causal: bool, scale: float | None
) -> Tensor:
    out = torch.ops.aten._scaled_dot_product_flash_attention(
        _padded(query), _padded(key), _padded(value), dropout_p, is_causal, False, scale=scale
    )[0]
    return out[..., : value.shape[-1]]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,  # noqa: FBT001, FBT002
    window_size: tuple[int, int] = (-1, -1),  # noqa: ARG001
    softcap: float = 0.0,  # noqa: ARG001
    deterministic: bool = False,  # noqa: ARG001, FBT001, FBT002
) -> Tensor:
    """The flash_attn package's function over (batch, seq, heads, head_dim), run as SDPA's copy of the same kernel."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return _flash(query, key, value, dropout_p, causal, softmax_scale).transpose(1, 2)


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        mask = torch.where(mask, 0.0, torch.scalar_tensor(float("-inf"), dtype=query.dtype, device=query.device))
    short = -mask.shape[-1] % 8
    if short:
        mask = torch.nn.functional.pad(mask, (0, short))[..., : mask.shape[-1]]
    return mask.expand(*query.shape[:3], key.shape[2])


@contextmanager
def as_on_cuda() -> Iterator[None]:
    """Patch torch while the context lasts."""
    functional, flash = "torch.nn.functional", "transformers.modeling_flash_attention_utils"
    patches: dict[str, Any] = {
        "transformers.masking_utils.find_packed_sequence_indices": lambda position_ids: None,  # noqa: ARG005
        "transformers.masking_utils.fast_all": lambda mask: False,  # noqa: ARG005
        f"{flash}._lazy_imports": lambda *_, **__: (flash_attn_func, flash_attn_func, None, None, None),
        "torch.is_autocast_enabled": lambda *_: False,
        f"{flash}._is_packed_sequence": lambda *_: False,
        "transformers.modeling_utils.PreTrainedModel._flash_attn_import_error": lambda *_, **__: None,
        f"{functional}.dropout": dropout,
        f"{functional}.softmax": softmax,
        f"{functional}.scaled_dot_product_attention": scaled_dot_product_attention,
    }
    with ExitStack() as stack:
        for name, replacement in patches.items():
            stack.enter_context(mock.patch(name, replacement))
        yield
