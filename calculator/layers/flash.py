"""FlashAttention in sdpa and in transformers: padded heads, and the layout of the output."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers.kernels import flash

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.kernels import Samples


#: The name of flash's output in the order that the output projection reads.
BY_POSITIONS = "attention output, by positions"


def named_inputs(query: Tensor, key: Tensor, value: Tensor) -> tuple[tuple[Tensor, str], ...]:
    """Return the inputs with their names."""
    return (query, "query"), (key, "key"), (value, "value")


def follows_queries(query: Tensor) -> bool:
    """Return whether flash's output on CUDA is contiguous by heads. The copy that cuts padded heads back is enough.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, mha_fwd (empty_like).
    """
    return query.tape.cuda and query.merged and query.shape[1] > 1 and query.shape[-1] % 8 == 0


def run_flash(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    samples: Samples | None = None,
    *,
    as_queries: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Run FlashAttention.

    Head sizes that are not a multiple of 8 are padded, and the result is cut back.
    """
    head_dim = query.shape[-1]
    if head_dim % 8 == 0:
        return flash(query, key, value, samples, as_queries=as_queries, dropout=dropout)
    out = _flash_of_padded(query, key, value, samples, as_queries=as_queries or query.tape.cuda, dropout=dropout)
    out = ops.narrow(out, (*query.shape[:-1], head_dim))
    return ops.contiguous(out, "attention output, cut back")


def _flash_of_padded(
    query: Tensor, key: Tensor, value: Tensor, samples: Samples | None, *, as_queries: bool, dropout: float
) -> Tensor:
    """Run FlashAttention on padded heads, which are freed before the caller copies a part of the result.

    The padded queries are contiguous by heads.

    Source: aten/src/ATen/native/transformers/attention.cpp, pad_last_dim and post_process_flash_output.
    """
    query, key, value = (_padded(t, name) for t, name in named_inputs(query, key, value))
    return flash(query, key, value, samples, as_queries=as_queries, dropout=dropout)


def _padded(x: Tensor, name: str) -> Tensor:
    """Pad the last dimension to a multiple of 8. Its gradient is a copy of a slice."""
    shape = (*x.shape[:-1], -(-x.shape[-1] // 8) * 8)
    return ops.pad(x, shape, f"{name}, padded")
