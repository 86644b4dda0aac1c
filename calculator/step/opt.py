"""OPT: learned positions, separate projections with biases, ReLU; norms before sublayers, after them in the 350M."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.step import attention, norms
from calculator.step import operations as ops
from calculator.step.activation import activation
from calculator.step.program import Program, looked_up
from calculator.step.self_attention import heads

if TYPE_CHECKING:
    from calculator.step.context import Context, LayerModules
    from calculator.step.tape import Tensor


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """One block: (batch, sequence, hidden_size) to the same."""
    before = context.config["do_layer_norm_before"]
    residual = hidden_states
    hidden_states = _normed(modules, "self_attn_layer_norm", hidden_states, here=before)
    hidden_states = _attention(context, modules, hidden_states)
    hidden_states = context.method.after(context, modules, "attention", hidden_states)
    hidden_states = ops.dropout(hidden_states, context.config["dropout"], "attention, dropped")
    hidden_states = ops.add(residual, hidden_states, "residual after attention")
    hidden_states = _normed(modules, "self_attn_layer_norm", hidden_states, here=not before)
    residual = hidden_states
    hidden_states = _normed(modules, "final_layer_norm", hidden_states, here=before)
    hidden_states = modules["fc1"](hidden_states)
    context.scoped(f"{modules.prefix}mlp: ")
    hidden_states = activation(context.config["hidden_act"])(hidden_states)
    hidden_states = modules["fc2"](hidden_states)
    hidden_states = context.method.after(context, modules, "mlp", hidden_states)
    hidden_states = ops.dropout(hidden_states, context.config["dropout"], "MLP, dropped")
    hidden_states = ops.add(residual, hidden_states, "residual after MLP")
    return _normed(modules, "final_layer_norm", hidden_states, here=not before)


def _normed(modules: LayerModules, name: str, x: Tensor, *, here: bool) -> Tensor:
    return norms.layer_norm(modules[name], x) if here else x


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    count = context.config["num_attention_heads"]
    query_states = ops.scale(modules["self_attn.q_proj"](hidden_states), "query, scaled")
    query_states = heads(context, query_states, count)
    key_states = modules["self_attn.k_proj"](hidden_states)
    value_states = modules["self_attn.v_proj"](hidden_states)
    key_states, value_states = heads(context, key_states, count), heads(context, value_states, count)
    context.scoped(f"{modules.prefix}self_attn: ")
    key_states, value_states = context.cached(key_states, value_states)
    attn_output = attention.attend(context, query_states, key_states, value_states)
    return modules["self_attn.out_proj"](attn_output)


def _enter(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Words, brought to the layers' width where that is another, + positions."""
    positions = context.tape.new(inputs_embeds.shape[:2], "int64", "position_ids")
    context.position = (positions,)
    pos_embeds = looked_up(context, positions, "model.decoder.embed_positions")
    context.during_layers.append(pos_embeds)
    if context.has("model.decoder.project_in"):
        inputs_embeds = context.outer("model.decoder.project_in")(inputs_embeds)
    return ops.add(inputs_embeds, pos_embeds, "words + positions")


def _positions(context: Context, _hidden_states: Tensor) -> tuple[Tensor, ...]:
    return context.position


def _leave(context: Context, hidden_states: Tensor) -> Tensor:
    if context.has("model.decoder.final_layer_norm"):
        hidden_states = norms.layer_norm(context.outer("model.decoder.final_layer_norm"), hidden_states)
    if context.has("model.decoder.project_out"):
        hidden_states = context.outer("model.decoder.project_out")(hidden_states)
    return hidden_states


def _words(context: Context, ids: Tensor) -> Tensor:
    return looked_up(context, ids, "model.decoder.embed_tokens")


PROGRAMS = {
    "opt": Program(
        layer=layer,
        embeddings=_words,
        enter=_enter,
        tables=_positions,
        leave=_leave,
        source="transformers/models/opt/modeling_opt.py",
    ),
}
