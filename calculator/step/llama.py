"""The llama block and what shares its shape: RMSNorm, rotary attention, a gated MLP, two residuals."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import attention, norms, rotary
from calculator.step import operations as ops
from calculator.step.activation import activation
from calculator.step.program import Program

if TYPE_CHECKING:
    from calculator.step.context import Context, LayerModules
    from calculator.step.tape import Tensor


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """One decoder layer: (batch, sequence, hidden_size) to the same."""
    residual = hidden_states
    hidden_states = norms.rms_norm(modules["input_layernorm"], hidden_states)
    hidden_states = self_attention(context, modules, hidden_states)
    hidden_states = context.method.after(context, modules, "attention", hidden_states)
    hidden_states = ops.add(residual, hidden_states, "residual after attention")
    residual = hidden_states
    hidden_states = norms.rms_norm(modules["post_attention_layernorm"], hidden_states)
    hidden_states = gated_mlp(context, modules, hidden_states)
    hidden_states = context.method.after(context, modules, "mlp", hidden_states)
    return ops.add(residual, hidden_states, "residual after MLP")


def heads(context: Context, x: Tensor, count: int) -> Tensor:
    """(batch, sequence, heads · head_dim) seen as (batch, heads, sequence, head_dim)."""
    return ops.view(x, (context.batch, count, x.shape[1], context.config["head_dim"]))


def self_attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Grouped-query attention with rotary positions."""
    config = context.config
    query_states = heads(context, modules["self_attn.q_proj"](hidden_states), config["num_attention_heads"])
    key_states = heads(context, modules["self_attn.k_proj"](hidden_states), config["num_key_value_heads"])
    value_states = heads(context, modules["self_attn.v_proj"](hidden_states), config["num_key_value_heads"])
    context.scoped(f"{modules.prefix}self_attn: ")
    cos, sin, _ = context.position
    query_states, key_states = (
        rotary.rotated(query_states, cos, sin, "query, rotated"),
        rotary.rotated(key_states, cos, sin, "key, rotated"),
    )
    key_states, value_states = context.cached(key_states, value_states)
    attn_output = attention.attend(context, query_states, key_states, value_states)
    return modules["self_attn.o_proj"](attn_output)


def gated_mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """down(act(gate(x)) · up(x))."""
    act = activation(context.config["hidden_act"])
    gate = modules["mlp.gate_proj"](x)
    context.scoped(f"{modules.prefix}mlp: ")
    act_gate = act(gate)
    del gate
    up = modules["mlp.up_proj"](x)
    context.scoped(f"{modules.prefix}mlp: ")
    product = ops.mul(act_gate, up, "activated gate · up")
    del act_gate, up
    return modules["mlp.down_proj"](product)


PROGRAMS = {
    name: Program(layer=layer, source=f"transformers/models/{name}/modeling_{name}.py")
    for name in ("llama", "mistral", "qwen2")
}
