"""Self-attention as rotary decoders write it; what differs between them is data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.step import attention, rotary
from calculator.step import operations as ops

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.step.bound import Bound
    from calculator.step.context import Context, LayerModules
    from calculator.step.tape import Tensor

    #: Hidden states to queries, keys and values by heads, and what stays alive beside them.
    Project = Callable[[Context, LayerModules, Tensor], tuple[Tensor, ...]]

    #: Queries and keys to rotated ones, and what stays alive beside them.
    Rotate = Callable[[Context, Tensor, Tensor], tuple[Tensor, ...]]

    Norm = Callable[[Bound, Tensor], Tensor]

#: The end of a layer's kind where positions are not embedded.
NOT_ROTATED = "+nope"


def heads(context: Context, x: Tensor, count: int) -> Tensor:
    """(batch, sequence, heads · head_dim) seen as (batch, heads, sequence, head_dim)."""
    return ops.view(x, (context.batch, count, x.shape[1], context.config["head_dim"]))


def projected(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Three projections."""
    config = context.config
    query_states = heads(context, modules["self_attn.q_proj"](hidden_states), config["num_attention_heads"])
    key_states = heads(context, modules["self_attn.k_proj"](hidden_states), config["num_key_value_heads"])
    value_states = heads(context, modules["self_attn.v_proj"](hidden_states), config["num_key_value_heads"])
    return query_states, key_states, value_states


def normed_at_once(norm: Norm, *, whole: bool = False) -> Project:
    """Three projections; queries and keys are normed as soon as they are there, by heads or as a whole."""

    def normed(context: Context, modules: LayerModules, hidden_states: Tensor, name: str, count: int) -> Tensor:
        x = modules[f"self_attn.{name}_proj"](hidden_states)
        if whole:
            return heads(context, norm(modules[f"self_attn.{name}_norm"], x), count)
        return norm(modules[f"self_attn.{name}_norm"], heads(context, x, count))

    def project(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
        queries, keys = context.config["num_attention_heads"], context.config["num_key_value_heads"]
        query_states = normed(context, modules, hidden_states, "q", queries)
        key_states = normed(context, modules, hidden_states, "k", keys)
        return query_states, key_states, heads(context, modules["self_attn.v_proj"](hidden_states), keys)

    return project


def normed_later(norm: Norm, suffix: str = "norm") -> Project:
    """Three projections, after which queries and keys are normed where the layer has norms for them."""

    def project(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
        query_states, key_states, value_states = projected(context, modules, hidden_states)
        if f"self_attn.q_{suffix}" in modules:
            query_states = norm(modules[f"self_attn.q_{suffix}"], query_states)
            key_states = norm(modules[f"self_attn.k_{suffix}"], key_states)
        return query_states, key_states, value_states

    return project


def rotated(context: Context, query_states: Tensor, key_states: Tensor) -> tuple[Tensor, ...]:
    """Every dimension of every head."""
    cos, sin = context.position[:2]
    return (
        rotary.rotated(query_states, cos, sin, "query, rotated"),
        rotary.rotated(key_states, cos, sin, "key, rotated"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfAttention:
    """Grouped-query attention. The defaults are llama's.

    `output` names the output projection; `dropout` the probability in the config of dropping from its result.
    """

    project: Project = projected
    rotate: Rotate = rotated
    output: str = "self_attn.o_proj"
    dropout: str | None = None

    def __call__(self, context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
        """(batch, sequence, hidden_size) to the same."""
        query_states, key_states, value_states, *_beside = self.project(context, modules, hidden_states)
        context.scoped(f"{modules.prefix}self_attn: ")
        if not modules.kind.endswith(NOT_ROTATED):
            query_states, key_states, *_unrotated = self.rotate(context, query_states, key_states)
        key_states, value_states = context.cached(key_states, value_states)
        attn_output = attention.attend(context, query_states, key_states, value_states)
        attn_output = modules[self.output](attn_output)
        if self.dropout is None:
            return attn_output
        return ops.dropout(attn_output, context.config[self.dropout], "attention, dropped")
