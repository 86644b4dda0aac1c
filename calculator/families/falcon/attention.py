"""Falcon's attention: the split into heads, the rotation, and two implementations of eager attention.

Source: transformers/models/falcon/modeling_falcon.py, FalconAttention.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing
from calculator.engine import operations as ops
from calculator.layers import attention, rotary
from calculator.layers.kernels import efficient
from calculator.layers.math_attention import math_attention

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

    #: The output, and the scores, which stay alive until the output projection has run.
    Attended = tuple[Tensor, tuple[Tensor, ...]]


def self_attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run attention: (batch, sequence, hidden_size) to the same shape.

    A local variable keeps the fused projection alive.
    """
    fused_qkv = modules["self_attention.query_key_value"](hidden_states)
    context.set_scope(f"{modules.prefix}self_attention: ")
    query_layer, key_layer, value_layer = _split(context, fused_qkv)
    if not context.config["alibi"]:
        cos, sin, _ = context.position_tables
        query_layer, key_layer = (
            rotary.rotate(query_layer, cos, sin, "query, rotated"),
            rotary.rotate(key_layer, cos, sin, "key, rotated"),
        )
    key_layer, value_layer = context.update_cache(key_layer, value_layer)
    attn_output, _alive = _attend(context, query_layer, key_layer, value_layer, hidden_states.dtype)
    return modules["self_attention.dense"](ops.view(attn_output, hidden_states.shape))


def _split(context: Context, fused_qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the fused projection into queries, keys and values of shape (batch, heads, sequence, head_dim).

    Indexing with a list copies. Slicing does not.
    """
    config, (batch, length, _) = context.config, fused_qkv.shape
    head = (batch, config["num_attention_heads"], length, config["head_dim"])
    if config["new_decoder_architecture"]:
        return _split_groups(context, fused_qkv)
    if not config["multi_query"]:
        fused_qkv = ops.view(fused_qkv, (*head[:3], 3, head[3]))
        query, key, value = (ops.narrow(fused_qkv, head, part=part) for part in range(3))
        return query, key, value
    fused_qkv = ops.view(fused_qkv, (batch, head[1] + 2, *head[2:]))
    one = (batch, 1, *head[2:])
    query = ops.narrow(fused_qkv, head)
    return (
        query,
        indexing.index_list(fused_qkv, one, 1, "key, picked"),
        indexing.index_list(fused_qkv, one, 1, "value, picked"),
    )


def _split_groups(context: Context, fused_qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Split the fused projection by groups of queries with one key and one value.

    Keys and values are expanded to the number of queries.
    """
    config, (batch, length, _) = context.config, fused_qkv.shape
    heads, groups, head_dim = config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]
    queries = heads // groups
    group_shape, head_shape = (batch, groups, length, queries, head_dim), (batch, groups, length, 1, head_dim)
    qkv = ops.view(fused_qkv, (batch, groups, length, queries + 2, head_dim))
    query = ops.narrow(qkv, group_shape)
    key = ops.expand(indexing.index_list(qkv, head_shape, 1, "key, picked"), group_shape)
    value = ops.expand(indexing.index_list(qkv, head_shape, 1, "value, picked"), group_shape)
    parts = ((query, "query, by heads"), (key, "key, by heads"), (value, "value, by heads"))
    spread = [_flattened(x, (batch, heads, length, head_dim), name) for x, name in parts]
    return spread[0], spread[1], spread[2]


def _flattened(x: Tensor, shape: tuple[int, ...], name: str) -> Tensor:
    """Flatten groups and their heads into one dimension. This copies if there are several of both."""
    if x.shape[1] > 1 and x.shape[3] > 1:
        x = ops.contiguous(x, name)
        x.merged = False  # positions first, then heads
    return ops.view(x, shape)


def _attend(context: Context, query: Tensor, key: Tensor, value: Tensor, dtype: DType) -> Attended:
    if context.attention == "sdpa":
        return _sdpa(context, query, key, value), ()
    if context.attention != "eager":
        return attention.attend(context, query, key, value), ()
    scores = attention.scores(query, key)
    if context.config["alibi"]:
        return _with_alibi(context, scores, value, dtype)
    return _eager(context, scores, value, dtype)


def _sdpa(context: Context, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Run sdpa, always with a mask.

    Without enable_gqa, only the math kernel supports a single key head for all queries.

    Source: aten/src/ATen/native/transformers/sdp_utils_cpp.h, check_batch_size_and_num_heads_dense.
    """
    return attention.run_kernel(context, query, key, value, partial(_kernel, context))


def _kernel(context: Context, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    dropout = context.config["attention_dropout"] if context.config["alibi"] else 0.0
    if key.shape[1] != query.shape[1] or not attention.runs_efficient(context, query, key, value):
        return math_attention(query, key, value, mask, dropout=dropout, grouped=False)
    bias = None if mask is None else attention.bias(query, key, mask)
    return efficient(query, key, value, bias, dropout=dropout)


def _eager(context: Context, scores: Tensor, value: Tensor, dtype: DType) -> Attended:
    """Scale the scores in place and apply softmax in the data type of the hidden states, without dropout."""
    scores = in_place.mul_(scores)
    scores = ops.softmax(attention.add_mask(context, scores), dtype)
    return attention.weigh_values(context, scores, value), ()


def _with_alibi(context: Context, scores: Tensor, value: Tensor, dtype: DType) -> Attended:
    """Add the ALiBi bias to the scores in float32. The mask also contains the bias."""
    *_, alibi = context.position_tables
    attention_scores = ops.cast(scores, "float32", "scores in float32")
    attention_logits = in_place.mul_(ops.add(attention_scores, alibi, "scores + ALiBi"))
    masked = attention.add_mask(context, attention_logits)
    probs = ops.softmax(masked, dtype)
    del masked
    probs = ops.dropout(probs, context.config["attention_dropout"], "probabilities, dropped")
    return attention.weigh_values(context, probs, value), (scores, attention_scores, attention_logits)
