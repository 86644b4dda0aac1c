"""`scaled_dot_product_attention` as on CUDA: the choice of the kernel, and the allocations around it.

References:
    ATen/native/transformers/attention.cpp, `scaled_dot_product_attention`, `preprocess_mask`,
    `_scaled_dot_product_attention_math`; ATen/native/transformers/cuda/sdp_utils.cpp, the kernels' conditions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from validation.tracing.emulations.attention import VarlenFlash
from validation.tracing.emulations.autocast import disabled, lowered

#: The largest head_dim of the flash kernel, and the alignment of head_dim that the memory-efficient kernel needs.
FLASH_HEAD_DIM = 256
ALIGNMENT = {torch.float32: 4, torch.float16: 8, torch.bfloat16: 8}


@dataclass(frozen=True, slots=True)
class Attention:
    """The choice of a kernel. Before PyTorch 2.14 the memory-efficient kernel has no grouped keys and values."""

    before_2_14: bool = False

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """Attention of (batch, heads, seq, head_dim) queries over keys and values that may have fewer heads."""
        query, key, value, attn_mask = lowered(query, key, value, attn_mask)
        with disabled():
            return self._run(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa=enable_gqa)

    def _run(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        *,
        enable_gqa: bool,
    ) -> Tensor:
        grouped = key.shape[1] != query.shape[1]
        if grouped and not enable_gqa:
            return _math(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa=False)
        if attn_mask is None and query.dtype != torch.float32 and query.shape[-1] == value.shape[-1] <= FLASH_HEAD_DIM:
            return flash(query, key, value, dropout_p, is_causal, scale)
        if query.shape[-1] % ALIGNMENT[query.dtype] or value.shape[-1] % ALIGNMENT[query.dtype]:
            return _math(query, key, value, attn_mask, dropout_p, is_causal, scale)
        if grouped and self.before_2_14:
            return _math(query, key, value, attn_mask, dropout_p, is_causal, scale)
        return _efficient(query, key, value, attn_mask, dropout_p, is_causal, scale)


def flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    """Return the flash kernel, on heads padded to a multiple of 8."""
    padded = (_padded(tensor) for tensor in (query, key, value))
    out = torch.ops.aten._scaled_dot_product_flash_attention(*padded, dropout_p, is_causal, False, scale=scale)[0]
    return out[..., : value.shape[-1]]


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """Run flash_attn's function over (batch, seq, heads, head_dim) as SDPA's copy of the same kernel."""
    query, key, value = (tensor.transpose(1, 2) for tensor in (q, k, v))
    return flash(query, key, value, dropout_p, causal, softmax_scale).transpose(1, 2)


def flash_attn_varlen_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    deterministic: bool = False,
) -> Tensor:
    """Return the flash_attn package's function over (tokens, heads, head_dim) of packed sequences."""
    query, key, value = (_padded(tensor[None].transpose(1, 2)) for tensor in (q, k, v))
    out = VarlenFlash.apply(query, key, value, cu_seqlens_q)
    return out[..., : v.shape[-1]].transpose(1, 2)[0]


def _padded(tensor: Tensor) -> Tensor:
    short = -tensor.shape[-1] % 8
    return functional.pad(tensor, (0, short)) if short else tensor


def _efficient(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
) -> Tensor:
    needs_grad = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in (query, key, value))
    bias = None if attn_mask is None else _bias(attn_mask, query, key)
    return torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, bias, needs_grad, dropout_p, is_causal, scale=scale
    )[0]


def _additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.where(mask, 0.0, torch.scalar_tensor(-math.inf, dtype=dtype, device=mask.device))


def _bias(mask: Tensor, query: Tensor, key: Tensor) -> Tensor:
    """Return the mask of the memory-efficient kernel: additive, with rows padded to a multiple of 8 elements."""
    mask = _additive(mask, query.dtype)
    short = -mask.shape[-1] % 8
    if short:
        mask = functional.pad(mask, (0, short))[..., : mask.shape[-1]]
    return mask.expand(*query.shape[:3], key.shape[2])


def _math(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    *,
    enable_gqa: bool = True,
) -> Tensor:
    dtype, heads = query.dtype, query.shape[1]
    root = math.sqrt(scale or 1 / math.sqrt(query.shape[-1]))
    query, key, value = (tensor.float() for tensor in (query, key, value))
    query = query * root
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    if attn_mask is not None:
        attn_mask = _additive(attn_mask, query.dtype)
    if enable_gqa and key.shape[1] != heads:
        key, value = (tensor.repeat_interleave(heads // tensor.shape[1], -3) for tensor in (key, value))
    scores = torch.matmul(query, key.transpose(-2, -1) * root)
    if attn_mask is not None:
        scores.add_(attn_mask)
    scores = torch.ops.aten._safe_softmax(scores, -1)
    if dropout_p > 0:
        scores = functional.dropout(scores, dropout_p)
    return torch.matmul(scores, value).to(dtype)
