"""Gemma 4's attention: normalized queries, keys and values. The size of heads depends on the attention type."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.families.gemma4.norms import called_unscaled, rms_norm
from calculator.layers import attention, rotary
from calculator.layers.norms import norm_before_transposition

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.families.gemma4.norms import Norm
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def attend(context: Context, modules: LayerModules, hidden_states: Tensor, norm: Norm = rms_norm) -> Tensor:
    """Run Gemma4TextAttention: queries first, then the layer's own keys and values or those of an earlier layer.

    `norm` is the norm of queries and keys.
    """
    kind, shared = modules.kind, context.passed.keys_and_values
    context.set_scope(f"{modules.prefix}self_attn: ")
    query_states = _heads(context, modules, hidden_states, "q")
    query_states = norm_before_transposition(norm, modules["self_attn.q_norm"], query_states)
    query_states = _rotated(context, modules, query_states, "query")
    if kind.shares == "reuse":
        key_states, value_states = shared[kind.attention]
    else:
        key_states, value_states = _keys_and_values(context, modules, hidden_states, norm)
    if kind.shares == "store":
        shared[kind.attention] = key_states, value_states
    return modules["self_attn.o_proj"](attention.attend(context, query_states, key_states, value_states))


def _keys_and_values(
    context: Context, modules: LayerModules, hidden_states: Tensor, norm: Norm
) -> tuple[Tensor, Tensor]:
    """Project to keys and values. Without a value projection, the values are the keys before their norm."""
    key_states = _heads(context, modules, hidden_states, "k")
    value_states = _heads(context, modules, hidden_states, "v") if "self_attn.v_proj" in modules else key_states
    key_states = norm_before_transposition(norm, modules["self_attn.k_norm"], key_states)
    key_states = _rotated(context, modules, key_states, "key")
    unscaled = partial(called_unscaled, context)
    value_states = norm_before_transposition(unscaled, f"{modules.prefix}self_attn.v_norm", value_states)
    context.set_scope(f"{modules.prefix}self_attn: ")
    return context.update_cache(key_states, value_states)


def _heads(context: Context, modules: LayerModules, hidden_states: Tensor, name: str) -> Tensor:
    config, full = context.config, modules.kind.attention == "full_attention"
    head = config["global_head_dim"] if full else config["head_dim"]
    x = modules[f"self_attn.{name}_proj"](hidden_states)
    return ops.view(x, (x.shape[0], x.shape[2] // head, x.shape[1], head))


def _rotated(context: Context, modules: LayerModules, x: Tensor, name: str) -> Tensor:
    context.set_scope(f"{modules.prefix}self_attn: ")
    cos, sin = context.position_tables[:2]
    return rotary.rotate(x, cos, sin, f"{name}, rotated")
