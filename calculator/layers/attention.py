"""Attention: the kernel that runs, and the operations around it.

query: (batch, heads, sequence, head_dim); key, value: (batch, key/value heads, sequence, head_dim); the result is
(batch, sequence, heads · head_dim).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE
from calculator.engine import autocast, products
from calculator.engine import operations as ops
from calculator.engine.layout import by_heads, by_positions, columns_of, mergeable
from calculator.layers.dropout import dropout
from calculator.layers.flash import BY_POSITIONS, follows_queries, named_inputs, run_flash
from calculator.layers.kernels import Samples, efficient
from calculator.layers.math_attention import math_attention

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

    #: A kernel, or a function that chooses one: (query, key, value, mask) to the output.
    Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]

    #: Attention as separate operations: (context, query, key, value) to the output.
    EagerAttention = Callable[[Context, Tensor, Tensor, Tensor], Tensor]

_HALF = ("bfloat16", "float16")


def attend(
    context: Context,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    eager_forward: EagerAttention | None = None,
    *,
    samples: Samples | None = None,
) -> Tensor:
    """Run the requested implementation of attention (transformers' ALL_ATTENTION_FUNCTIONS).

    `eager_forward` is the family's own eager_attention_forward, if it has one. FlashAttention 2 gets its inputs in half
    precision (modeling_flash_attention_utils.py). It attends within each of `samples`, or within each sample of the
    batch.
    """
    if context.attention == "eager":
        out = (eager_forward or eager)(context, query, key, value)
    elif context.attention == "sdpa":
        out = _sdpa(context, query, key, value)
    else:
        value, width = _widened(query, value), value.shape[-1]
        if query.dtype == "float32":
            query, key, value = (half_precision(context, t, n) for t, n in named_inputs(query, key, value))
        out = _cut(
            run_flash(query, key, value, samples or samples_of(context), dropout=context.attention_dropout), width
        )
        out = by_positions(out, BY_POSITIONS) if follows_queries(query) else out
    batch, heads, length, head_dim = out.shape
    return ops.view(out, (batch, length, heads * head_dim))


def repeats_for_flash(context: Context) -> bool:
    """Return whether the layer itself repeats keys and values, and casts its inputs, for FlashAttention 2."""
    return context.attention == "flash_attention_2" and "repeated_keys_of_flash" in context.older


def half_precision(context: Context, x: Tensor, name: str) -> Tensor:
    """Cast an input of FlashAttention 2 that is in float32 (modeling_flash_attention_utils.py)."""
    if x.dtype != "float32":
        return x
    return ops.cast(x, context.training.autocast or context.training.dtype, f"{name} in half precision")


#: The differences of older releases that repeat the keys for the query of a single token. 5.23 packs the queries.
_REPEAT_KEYS = {"repeated_keys", "repeated_keys_of_one_token"}


def _sdpa(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run scaled_dot_product_attention.

    With a mask, grouped keys are repeated, or the queries of a single position are packed.

    Source: integrations/sdpa_attention.py.
    """
    grouped = key.shape[1] != query.shape[1]
    stays = context.mask is None and "repeated_keys" not in context.older
    if grouped and not (stays and use_gqa_in_sdpa(key.shape[-1], value.shape[-1])):
        if query.shape[2] == 1 and not context.older & _REPEAT_KEYS:
            return _packed(context, query, key, value)
        key, value = repeat_kv(query, key, "key, repeated"), repeat_kv(query, value, "value, repeated")
    if "contiguous_queries" in context.older:
        query, key, value = (_contiguous_heads(t, name) for t, name in named_inputs(query, key, value))
    out = run_kernel(context, query, key, value, partial(_kernel, context))
    # Flash's output has the layout of the queries. It is copied after autocast's copies of the inputs are freed.
    if _is_by_heads(context, query) and _runs_flash(context, query, key, value):
        return by_positions(out, BY_POSITIONS)
    return out


def _is_by_heads(context: Context, query: Tensor) -> bool:
    """Return whether the output of flash is contiguous by heads, as the queries are, until it is copied.

    In a trace it is not, unless an older release copies the queries.
    """
    return "contiguous_queries" in context.older or follows_queries(query)


def _contiguous_heads(x: Tensor, name: str) -> Tensor:
    """Copy heads whose memory is ordered by positions, which is how the projections leave them."""
    return x if x.merged or 1 in x.shape[1:3] else ops.contiguous(x, f"{name}, contiguous")


def _packed(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend from one position, with the queries of a group packed as positions. Ungrouping the output copies it."""
    batch, heads, _, width = query.shape
    groups = key.shape[1]
    packed = ops.view(query, (batch, groups, heads // groups, width))
    out = run_kernel(context, packed, key, value, partial(_kernel, context))
    if groups > 1:
        out = ops.contiguous(out, "attention output, by heads")
    return ops.view(out, (batch, heads, 1, value.shape[-1]))


def _kernel(context: Context, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    if _runs_flash(context, query, key, value):
        as_queries = _is_by_heads(context, query)
        return run_flash(query, key, value, as_queries=as_queries, dropout=context.attention_dropout)
    return _efficient(context, query, key, value, mask)


def run_kernel(context: Context, query: Tensor, key: Tensor, value: Tensor, kernel: Kernel) -> Tensor:
    """Run a kernel of scaled_dot_product_attention on inputs that autocast casts.

    Autocast is off inside the kernel.
    """
    region, mask = query.tape.autocast, context.mask
    if region is None:
        return kernel(query, key, value, mask)
    if mask is not None and mask.dtype != "bool":
        mask = region.cached_cast(mask, "mask")
    key, value = region.cast_factors(key, value, ("key", "value"))
    query = region.cached_cast(query, "query")
    with autocast.region(query.tape, None):
        return kernel(query, key, value, mask)


def _widened(query: Tensor, value: Tensor) -> Tensor:
    """Pad values to the queries' head size (integrations/flash_attention.py)."""
    shape = (*value.shape[:-1], query.shape[-1])
    return value if shape == value.shape else ops.pad(value, shape, "value, padded")


def _cut(out: Tensor, width: int) -> Tensor:
    """Cut the output back to the values' head size. Its memory is ordered by positions, then heads."""
    shape = (*out.shape[:-1], width)
    if shape == out.shape:
        return out
    return ops.contiguous(ops.narrow(out, shape, merged=False), "attention output, cut back")


def _runs_flash(context: Context, query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether sdpa runs flash: half precision, no mask, one head size up to 256, and a GPU that supports it.

    On CUDA, some GPUs do not train large heads with it.

    Source: aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
    """
    fits = query.shape[-1] == value.shape[-1] <= 256
    dtype = query.dtype if query.tape.autocast is None else query.tape.autocast.dtype
    runs = fits and context.mask is None and dtype in _HALF and context.kernels.flash
    if not runs or not context.kernels.cuda or not any(x.edge for x in (query, key, value)):
        return runs
    drops = bool(context.attention_dropout) and query.tape.trains
    return context.kernels.flash_trains(query.shape[-1], drops=drops)


def samples_of(context: Context) -> Samples | None:
    """Return the samples that FlashAttention attends to separately, or None if the batch is not flattened.

    If the batch comes without the bounds of the samples, each layer finds them in the positions. It finds them only if
    there are several samples.

    Source: transformers/modeling_flash_attention_utils.py, _flash_attention_forward.
    """
    training = context.training
    bounds = context.sample_bounds if context.forward.passes_bounds else None
    if not training.flattened or (bounds is None and training.samples == 1):
        return None
    if bounds is None:
        bounds = context.tape.new((training.samples + 1,), "int32", "bounds of samples")
    return Samples(training.samples, bounds)


def _efficient(context: Context, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    """Run the memory-efficient kernel if it supports the heads, else the math kernel.

    A mask is converted to a bias.
    """
    if not runs_efficient(context, query, key, value):
        causal = context.is_causal and context.length > 1
        return math_attention(query, key, value, mask, dropout=context.attention_dropout, causal=causal)
    added = None if mask is None else bias(query, key, mask)
    return efficient(query, key, value, added, dropout=context.attention_dropout)


def runs_efficient(context: Context, query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Return whether the memory-efficient kernel runs on the GPU for these heads and this dtype."""
    kernels = context.kernels
    grouped = key.shape[1] != query.shape[1]
    dtype_runs = query.dtype != "bfloat16" or kernels.efficient_bfloat16
    if not kernels.efficient or not dtype_runs or (grouped and not kernels.grouped_efficient):
        return False
    return is_aligned(query, value) or (kernels.cuda and _needs_no_alignment(query, kernels.capability))


def use_gqa_in_sdpa(key_width: int, value_width: int) -> bool:
    """Return whether grouped keys without a mask stay grouped in sdpa (integrations/sdpa_attention.py)."""
    return key_width == value_width <= 256


def is_aligned(query: Tensor, value: Tensor) -> bool:
    """Return whether both head sizes are multiples of 16 bytes (sdp_utils.cpp, check_head_dim_size_mem_efficient)."""
    return all(t.shape[-1] * ITEMSIZE[t.dtype] % 16 == 0 for t in (query, value))


def _needs_no_alignment(query: Tensor, capability: tuple[int, int]) -> bool:
    """Return whether no tensor cores multiply the inputs, which may then have any size (minimum_gemm_alignment)."""
    return capability < ((7, 0) if query.dtype in _HALF else (8, 0))


def repeat_kv(query: Tensor, x: Tensor, name: str) -> Tensor:
    """Repeat grouped heads to the number of the queries' heads (repeat_kv).

    The result is a copy, or an expanded view of a single head.
    """
    batch, heads, length, head_dim = x.shape
    count = query.shape[1]
    if heads == count:
        return x
    if heads == 1:
        return ops.expand(x, (batch, count, length, head_dim))
    expanded = ops.expand(
        ops.view(x, (batch, heads, 1, length, head_dim)), (batch, heads, count // heads, length, head_dim)
    )
    return ops.view(ops.contiguous(expanded, name), (batch, count, length, head_dim))


def bias(query: Tensor, key: Tensor, mask: Tensor) -> Tensor:
    """Convert a mask to an additive bias in the queries' dtype, with rows padded to a multiple of 8.

    Source: aten/src/ATen/native/transformers/attention.cpp, convert_boolean_attn_mask and pad_bias.
    """
    tape, batch, width = query.tape, query.shape[0], key.shape[2]
    if mask.dtype == "bool":
        mask = tape.new((batch, mask.shape[-2], width), query.dtype, "attention bias")
    if width % 8:
        padded = ops.pad(mask, (*mask.shape[:-1], -(-width // 8) * 8), "attention bias, padded")
        return ops.narrow(padded, mask.shape)
    return mask


def eager(
    context: Context,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    capped: bool = False,
    upcast: bool = True,
) -> Tensor:
    """Run attention as separate operations in the queries' dtype (eager_attention_forward of transformers).

    `capped`: whether the scores go through cap · tanh(x / cap). `upcast`: whether the softmax is in float32.
    """
    key_states = repeat_kv(query, key, "key, repeated")
    value_states = repeat_kv(query, value, "value, repeated")
    attn_weights = partial(_scores, context, query, key_states, capped=capped)
    return drop_and_weigh(context, softmax(attn_weights(), query.dtype, upcast=upcast), value_states)


def eager_without_casts(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run attention whose softmax has the scores' dtype.

    Under autocast, the softmax and the probabilities are float32.
    """
    return drop_and_weigh(context, ops.softmax(_scores(context, query, key, capped=False)), value)


def _scores(context: Context, query: Tensor, key: Tensor, *, capped: bool) -> Tensor:
    attn_weights = ops.scale(scores(query, key), "scores, scaled")
    if capped:
        attn_weights = ops.scale(attn_weights, "scores / cap")
        attn_weights = ops.unary(attn_weights, "tanh", saves="result")
        attn_weights = ops.scale(attn_weights, "scores, capped")
    return add_mask(context, attn_weights)


def scores(query: Tensor, key: Tensor) -> Tensor:
    """Multiply every query with every key: (batch, heads, sequence, sequence)."""
    if query.tape.autocast is not None:
        query, key = query.tape.autocast.cast_factors(query, key, ("query", "key"))
    key = expand_single_head(query, key)
    rows, columns = by_heads(mergeable(query, "query, contiguous")), columns_of(key)
    return products.bmm(rows, columns, (*query.shape[:3], key.shape[2]), "scores")


def expand_single_head(x: Tensor, single: Tensor) -> Tensor:
    """Expand a single head to the number of x's heads, as torch.matmul broadcasts it."""
    heads = x.shape[1]
    return single if single.shape[1] == heads else ops.expand(single, (single.shape[0], heads, *single.shape[2:]))


def add_mask(context: Context, x: Tensor) -> Tensor:
    """Add the mask to scores, if there is one."""
    return x if context.mask is None else ops.add(x, context.mask, "scores + mask")


def softmax(x: Tensor, dtype: DType, *, upcast: bool = True) -> Tensor:
    """Apply softmax in float32, or in the scores' dtype, then cast.

    If softmax upcasts, the scores stay alive until the cast is done, because one expression does both. Otherwise the
    probabilities replace the scores before the cast (transformers/models/gpt2/modeling_gpt2.py,
    eager_attention_forward).
    """
    out = ops.softmax(x, "float32" if upcast else None)
    if not upcast:
        del x
    return ops.cast(out, dtype, "probabilities")


def float32_scores(query: Tensor, key: Tensor) -> Tensor:
    """Cast queries and keys to float32 and multiply them."""
    return scores(ops.cast(query, "float32", "query in float32"), ops.cast(key, "float32", "key in float32"))


def drop_and_weigh(context: Context, attn_weights: Tensor, value: Tensor) -> Tensor:
    """Apply dropout to the probabilities, and multiply them with the values: (batch, heads, sequence, head_dim)."""
    attn_weights = ops.dropout(attn_weights, context.attention_dropout, "probabilities, dropped")
    return weigh_values(context, attn_weights, value)


def drop_in_module_and_weigh(context: Context, attn_weights: Tensor, value: Tensor) -> Tensor:
    """Apply a dropout module to the probabilities, and multiply them with the values."""
    attn_weights = dropout(attn_weights, context.attention_dropout, "probabilities, dropped")
    return weigh_values(context, attn_weights, value)


def weigh_values(context: Context, attn_weights: Tensor, value: Tensor) -> Tensor:
    """Multiply the probabilities with the values. The layer's code keeps the probabilities alive."""
    context.attn_weights = attn_weights
    if value.tape.autocast is not None:
        attn_weights, value = value.tape.autocast.cast_factors(attn_weights, value, ("probabilities", "value"))
    value = expand_single_head(attn_weights, value)
    shape = (*attn_weights.shape[:3], value.shape[3])
    rows = by_heads(mergeable(value, "value, contiguous"))
    out = products.bmm(attn_weights, rows, shape, "attention output")
    del attn_weights, value, rows
    return by_positions(out, "attention output, transposed")
