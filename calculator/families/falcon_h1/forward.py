"""Falcon-H1: attention and Mamba 2 in parallel in every layer, then a gated MLP, with multipliers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, leave
from calculator.layers import mamba, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, final, scaled_logits
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.self_attention import SelfAttention, split_heads

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _project(context: Context, modules: LayerModules, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Project to queries, keys and values. Keys are multiplied by a constant."""
    queries, groups = context.config["num_attention_heads"], context.config["num_key_value_heads"]
    query_states = split_heads(context, modules["self_attn.q_proj"](hidden_states), queries)
    key_states = split_heads(context, modules["self_attn.k_proj"](hidden_states), groups)
    context.set_scope(f"{modules.prefix}self_attn: ")
    key_states = ops.scale(key_states, "key, multiplied")
    return query_states, key_states, split_heads(context, modules["self_attn.v_proj"](hidden_states), groups)


_attend = SelfAttention(project=_project)
_mamba = mamba.Mamba2(norm=mamba.rms_norm_by_group, multiplies=True, gates_state_update=True)


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Multiply word embeddings, if the model has looked them up itself."""
    if context.method.embeds_inputs:
        return inputs_embeds
    context.set_scope("model.")
    return ops.scale(inputs_embeds, "embeddings, multiplied")


def _mlp(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    """Run FalconH1MLP: down(up(x) · act(gate(x))), with multipliers for the gate and the output."""
    up = modules["feed_forward.up_proj"](x)
    gate = modules["feed_forward.gate_proj"](x)
    context.set_scope(f"{modules.prefix}feed_forward: ")
    gate = ops.scale(gate, "gate, multiplied")
    act_gate = activation(context.config["hidden_act"])(gate)
    del gate
    product = ops.mul(up, act_gate, "up · activated gate")
    del up, act_gate
    return ops.scale(modules["feed_forward.down_proj"](product), "output, multiplied")


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run FalconH1DecoderLayer. The outputs of Mamba and attention stay alive until it returns."""
    residual = hidden_states
    hidden_states = norms.rms_norm(modules["input_layernorm"], hidden_states)
    path = f"{modules.prefix}mamba"
    begin(hidden_states.tape, path)
    mamba_output = leave(path, _mamba(context, modules, hidden_states))
    mamba_output = ops.scale(mamba_output, "output of Mamba, multiplied")
    attended = ops.scale(hidden_states, "input of attention, multiplied")
    attended = ops.scale(run_sublayer(context, modules, "attention", _attend, attended), "attention, multiplied")
    hidden_states = ops.add(mamba_output, attended, "Mamba + attention")
    hidden_states = ops.add(residual, hidden_states, "residual after attention")
    residual = hidden_states
    hidden_states = norms.rms_norm(modules["pre_ff_layernorm"], hidden_states)
    hidden_states = run_sublayer(context, modules, "mlp", _mlp, hidden_states)
    return ops.add(residual, hidden_states, "residual after MLP")


FALCON_H1 = DecoderForward(
    layer=_layer,
    before_layers=_before_layers,
    retained="input",
    final_norm=final(norms.rms_norm, "model.final_layernorm"),
    logits=scaled_logits,
)
