"""Self-attention of rotary decoders. Families differ in the fields of `SelfAttention`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import attention, rotary
from calculator.layers.decoder_forward import own_tables, spread_table
from calculator.layers.norms import norm_before_transposition

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.engine.tape import Tensor
    from calculator.layers.attention import EagerAttention
    from calculator.layers.bound_module import BoundModule
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

    #: Takes hidden states, and returns queries, keys and values by heads, then tensors that stay alive with them.
    Project = Callable[[Context, LayerModules, Tensor], tuple[Tensor, ...]]

    #: Takes queries and keys, and returns rotated ones, then tensors that stay alive with them.
    Rotate = Callable[[Context, Tensor, Tensor], tuple[Tensor, ...]]

    Norm = Callable[[BoundModule, Tensor], Tensor]


def split_heads(context: Context, x: Tensor, count: int) -> Tensor:
    """View (batch, sequence, heads · head_dim) as (batch, heads, sequence, head_dim)."""
    return ops.view(x, (context.batch, count, x.shape[1], context.config["head_dim"]))


def project_qkv(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Project hidden states to queries, keys and values."""
    config = context.config
    query_states = split_heads(context, modules["self_attn.q_proj"](hidden_states), config["num_attention_heads"])
    key_states = split_heads(context, modules["self_attn.k_proj"](hidden_states), config["num_key_value_heads"])
    value_states = split_heads(context, modules["self_attn.v_proj"](hidden_states), config["num_key_value_heads"])
    return query_states, key_states, value_states


def norm_each_projection(norm: Norm, suffix: str = "norm", *, whole: bool = False) -> Project:
    """Return a function for the three projections. The norms of queries and keys follow their projections directly.

    The norms are by heads, or over the whole projection.
    """

    def normed(context: Context, modules: LayerModules, hidden_states: Tensor, name: str, count: int) -> Tensor:
        x = modules[f"self_attn.{name}_proj"](hidden_states)
        if whole:
            return split_heads(context, norm(modules[f"self_attn.{name}_{suffix}"], x), count)
        return norm_before_transposition(norm, modules[f"self_attn.{name}_{suffix}"], split_heads(context, x, count))

    def project(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
        queries, keys = context.config["num_attention_heads"], context.config["num_key_value_heads"]
        query_states = normed(context, modules, hidden_states, "q", queries)
        key_states = normed(context, modules, hidden_states, "k", keys)
        return query_states, key_states, split_heads(context, modules["self_attn.v_proj"](hidden_states), keys)

    return project


def norm_after_projections(norm: Norm, suffix: str = "norm", *, transposes_first: bool = True) -> Project:
    """Return a function for the three projections. The norms of queries and keys follow, if the layer has them.

    `transposes_first`: whether the heads come before the positions by then.
    """
    run = norm if transposes_first else partial(norm_before_transposition, norm)

    def project(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
        query_states, key_states, value_states = project_qkv(context, modules, hidden_states)
        if f"self_attn.q_{suffix}" in modules:
            query_states = run(modules[f"self_attn.q_{suffix}"], query_states)
            key_states = run(modules[f"self_attn.k_{suffix}"], key_states)
        return query_states, key_states, value_states

    return project


def rotate_heads(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate all dimensions of every head."""
    cos, sin = context.position_tables[:2]
    return (
        rotary.rotate(query_states, cos, sin, "query, rotated"),
        rotary.rotate(key_states, cos, sin, "key, rotated"),
    )


def rotate_part(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate the first dimensions of every head. Queries and keys are concatenated again at the end."""
    return rotary.rotate_part(query_states, key_states, *context.position_tables[:2])


def rotate_part_keeping_parts(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate the first dimensions of every head within attention, whose local variables keep the parts."""
    cos = context.position_tables[0]
    query_rot, query_pass, key_rot, key_pass = rotary.split_part(query_states, key_states, cos.shape[-1])
    query_rot, key_rot = rotate_heads(context, query_rot, key_rot)
    query_whole = ops.cat((query_rot, query_pass), query_states.shape, "query, whole again")
    key_whole = ops.cat((key_rot, key_pass), key_states.shape, "key, whole again")
    return query_whole, key_whole, query_rot, query_pass, key_rot, key_pass


def rotate_part_one_by_one(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate the first dimensions of every head. Queries are concatenated before keys are rotated."""
    cos, sin = context.position_tables[:2]
    q_rot, q_pass, k_rot, k_pass = rotary.split_part(query_states, key_states, cos.shape[-1])
    return (
        ops.cat((rotary.rotate(q_rot, cos, sin, "query, rotated"), q_pass), query_states.shape, "query, whole"),
        ops.cat((rotary.rotate(k_rot, cos, sin, "key, rotated"), k_pass), key_states.shape, "key, whole"),
    )


def rotate_and_cast_back(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate all dimensions of every head in the promoted dtype, and cast back."""
    q_embed, k_embed = rotate_heads(context, query_states, key_states)
    q_type, k_type = query_states.dtype, key_states.dtype
    return ops.cast(q_embed, q_type, "query, cast back"), ops.cast(k_embed, k_type, "key, cast back")


def rotate_in_float32(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate all dimensions of every head in float32, whatever dtype the tables have."""
    q, k = ops.cast(query_states, "float32", "query in float32"), ops.cast(key_states, "float32", "key in float32")
    q_embed, k_embed = rotate_heads(context, q, k)
    dtype = query_states.dtype
    return ops.cast(q_embed, dtype, "query, cast back"), ops.cast(k_embed, dtype, "key, cast back")


def rotate_part_interleaved(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Rotate the first dimensions of every head, with tables that each layer interleaves itself."""
    cos, sin = (spread_table(context, table) for table in context.position_tables[:2])
    return rotary.rotate_part(query_states, key_states, cos, sin)


@dataclass(frozen=True, slots=True)
class NormsAfterRotation:
    """Norms of rotated queries and keys, given by the norm's function and the names of its modules."""

    norm: Norm
    query: str
    key: str

    def __call__(self, modules: LayerModules, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, Tensor]:
        """Norm the queries, then the keys."""
        query_states = self.norm(modules[self.query], query_states)
        return query_states, self.norm(modules[self.key], key_states)


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAttention:
    """Grouped-query attention. The defaults are Llama's."""

    project: Project = project_qkv
    rotate: Rotate = rotate_heads
    rotated_norms: NormsAfterRotation | None = None

    #: The family's own eager_attention_forward, if it has one.
    eager_forward: EagerAttention | None = None

    #: The name of the module.
    name: str = "self_attn"

    #: The name of the output projection.
    output: str = "self_attn.o_proj"

    #: The name in the config of the dropout probability of its result.
    dropout: str | None = None

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """Run attention: (batch, sequence, hidden_size) to the same shape."""
        query_states, key_states, value_states, *_alive = self.project(context, modules, hidden_states)
        context.set_scope(f"{modules.prefix}{self.name}: ")
        shared, context.position_tables = context.position_tables, own_tables(context, value_states)
        if modules.kind.rotated:
            query_states, key_states, *_unrotated = self.rotate(context, query_states, key_states)
        if self.rotated_norms is not None:
            query_states, key_states = self.rotated_norms(modules, query_states, key_states)
        key_states, value_states = context.update_cache(key_states, value_states)
        if attention.repeats_for_flash(context):
            key_states = attention.repeat_kv(query_states, key_states, "key, repeated")
            value_states = attention.repeat_kv(query_states, value_states, "value, repeated")
            query_states = attention.half_precision(context, query_states, "query")
            key_states = attention.half_precision(context, key_states, "key")
            value_states = attention.half_precision(context, value_states, "value")
        attn_output = attention.attend(context, query_states, key_states, value_states, self.eager_forward)
        attn_output = modules[self.output](attn_output)
        context.position_tables = shared
        if self.dropout is None:
            return attn_output
        return ops.dropout(attn_output, context.config[self.dropout], "attention, dropped")
