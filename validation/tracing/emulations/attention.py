"""The flash and memory-efficient attention kernels, with the outputs and scratch that their sources allocate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from validation.tracing.emulations.release import efficient_state, flash_state

if TYPE_CHECKING:
    from collections.abc import Sequence


def _round_up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple


def flash_forward(
    query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object
) -> tuple[Tensor, Tensor, None, None, int, int, Tensor, Tensor, Tensor]:
    """Return the output, the log-sum-exp, and the dropout's state.

    The output's layout is (batch, seq, heads, head_dim). `mha_fwd` uses the queries' layout, which is this one if they
    come from a projection without a copy in between (a partial rotary embedding copies).

    References:
        ATen/native/transformers/cuda/flash_attn/flash_api.cpp, `mha_fwd`.
    """
    batch, heads, seq, head_dim = query.shape
    out = query.new_empty((batch, seq, heads, head_dim)).transpose(1, 2)
    logsumexp = query.new_empty((batch, heads, seq), dtype=torch.float32)
    rng_state, unused = flash_state(query)
    return out, logsumexp, None, None, seq, key.shape[2], rng_state, unused, query.new_empty((0,))


class VarlenFlash(torch.autograd.Function):
    """The flash kernel on the samples of one row, whose bounds are `cu_seqlens`: saved, and a gap in dq's accumulator.

    References:
        Dao-AILab/flash-attention, flash_attn/flash_attn_interface.py, `FlashAttnVarlenFunc`.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, cu_seqlens: Tensor) -> Tensor:
        """Attend as the kernel does that knows no samples."""
        out, logsumexp, *_, rng_state, unused, _ = flash_forward(query, key, value)
        ctx.save_for_backward(query, key, value, out, logsumexp, rng_state, unused, cu_seqlens)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Return gradients of queries, keys and values."""
        query, key, value, out, *_, cu_seqlens = ctx.saved_tensors
        rows = query.shape[2] + 128 * (cu_seqlens.numel() - 1)
        return *flash_backward(grads[0], query, key, value, out, rows=rows), None


def flash_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    *_: object,
    rows: int | None = None,
    **__: object,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return gradients of (batch, heads, seq, head_dim) queries, keys and values. `rows`: those of dq's accumulator.

    References:
        ATen/native/transformers/cuda/flash_attn/flash_api.cpp, `mha_bwd`: a float32 accumulator of dq, softmax_d,
        and dk and dv with the queries' number of heads if keys and values have fewer. In Dao-AILab/flash-attention,
        csrc/flash_attn/flash_api.cpp, `mha_varlen_bwd`: total_q + 128 * batch_size rows.
    """
    batch, heads, seq, head_dim = query.shape
    kv_heads, kv_seq = key.shape[1], key.shape[2]
    grad_out, out = grad_out.transpose(1, 2).contiguous(), out.transpose(1, 2).contiguous()
    grads = tuple(torch.empty_like(tensor.transpose(1, 2)) for tensor in (query, key, value))
    seq_rounded, head_dim_rounded = rows or _round_up(seq, 128), _round_up(head_dim, 32 if head_dim <= 128 else 64)
    softmax_d = query.new_empty((batch, heads, seq_rounded), dtype=torch.float32)
    dq_accum = query.new_empty((batch, seq_rounded, heads, head_dim_rounded), dtype=torch.float32)
    expanded = []
    if kv_heads != heads:
        expanded = [key.new_empty((batch, kv_seq, heads, head_dim)) for _ in ("dk", "dv")]
    del softmax_d, dq_accum, expanded
    return grads[0].transpose(1, 2), grads[1].transpose(1, 2), grads[2].transpose(1, 2)


def efficient_forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    *_: object,
    **__: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the output, the log-sum-exp, and the dropout's seed and offset.

    References:
        ATen/native/transformers/cuda/attention.cu, `_efficient_attention_forward`; Note [Seed and Offset Device].
    """
    batch, heads, seq, _ = query.shape
    seed, offset = efficient_state(query, dropout_p)
    out = query.new_empty((batch, seq, heads, value.shape[-1]))
    logsumexp = query.new_empty((batch, heads, _round_up(seq, 32) if compute_log_sumexp else 0), dtype=torch.float32)
    return out.transpose(1, 2), logsumexp, seed, offset


def efficient_backward(
    grad_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: Tensor | None,
    out: Tensor,
    _logsumexp: Tensor,
    _seed: Tensor,
    _offset: Tensor,
    _dropout_p: float,
    grad_input_mask: Sequence[bool],
    *_: object,
    **__: object,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Return gradients of (batch, heads, seq, head_dim) queries, keys and values, and of a bias if it is trained.

    References:
        ATen/native/transformers/cuda/attention_backward.cu, `_efficient_attention_backward`, and
        mem_eff_attention/kernel_backward.h: delta, and the workspace that gradients are accumulated in.
    """
    query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
    grad_out, out = grad_out.transpose(1, 2).contiguous(), out.transpose(1, 2)
    batch, seq, heads, _ = query.shape
    grad_q = torch.empty_like(query, memory_format=torch.contiguous_format)
    grad_k, grad_v = (t.new_empty((batch, t.shape[1], heads, t.shape[3])) for t in (key, value))
    grad_bias = _grad_of_bias(attn_bias) if grad_input_mask[3] and attn_bias is not None else None
    if query.dtype == torch.float32:
        delta = (grad_out * out).sum(-1).transpose(-2, -1).contiguous()
    else:
        delta = query.new_empty((batch, heads, seq), dtype=torch.float32)
    workspace = query.new_empty((workspace_bytes(query, key, value),), dtype=torch.uint8)
    del delta, workspace
    if key.shape[2] != heads:
        grad_k, grad_v = (_reduced(t, key.shape[2]) for t in (grad_k, grad_v))
    return grad_q.transpose(1, 2), grad_k.transpose(1, 2), grad_v.transpose(1, 2), grad_bias


def _grad_of_bias(bias: Tensor) -> Tensor:
    """Return the gradient of a bias, of its expanded size with rows of a multiple of 16 elements."""
    length = bias.shape[-1]
    return bias.new_empty((*bias.shape[:-1], _round_up(length, 16)))[..., :length]


def _reduced(grad: Tensor, heads: int) -> Tensor:
    batch, seq, many, head_dim = grad.shape
    return grad.reshape(batch, seq, heads, many // heads, head_dim).sum(3)


def workspace_bytes(query: Tensor, key: Tensor, value: Tensor) -> int:
    """Return bytes of the backward kernel's workspace on compute capability 8.0 and 9.0.

    References:
        mem_eff_attention/kernels/generate_kernels.py (which kernel runs), kernel_backward.h, `Params::workspace_size`.
    """
    batch, seq, heads, head_dim = query.shape
    half, value_dim = query.dtype != torch.float32, value.shape[3]
    max_k = next(k for k in (32, 64, 128, 1 << 16) if max(head_dim, value_dim) <= k)
    block_i = 128 if max_k > 64 else 64
    in_registers = half and max_k <= block_i
    block_j = 128 if in_registers and max_k > 64 else 64
    tile = 4 + block_i * block_j
    elements = _round_up(seq, block_i) // block_i * (_round_up(head_dim, block_j) // block_j) * tile
    if half and not in_registers:
        splits = max(1, min(_round_up(key.shape[1], block_j) // block_j, 200 // (batch * heads)))
        elements += splits * block_j * (_round_up(head_dim, block_i) + _round_up(value_dim, block_i))
    return batch * heads * _round_up(elements, 4) * 4
