"""OPT: learned positions, separate projections with biases, ReLU; norms before sublayers, after them in the 350M."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.module_calls import begin, enter, leave
from calculator.layers import attention, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed
from calculator.layers.decoder_layer import run_sublayer
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run one block: (batch, sequence, hidden_size) to the same shape."""
    before = context.config["do_layer_norm_before"]
    residual = hidden_states
    hidden_states = _normed(modules, "self_attn_layer_norm", hidden_states, here=before)
    hidden_states = run_sublayer(context, modules, "attention", _attention, hidden_states)
    hidden_states = ops.dropout(hidden_states, context.config["dropout"], "attention, dropped")
    hidden_states = ops.add(residual, hidden_states, "residual after attention")
    hidden_states = _normed(modules, "self_attn_layer_norm", hidden_states, here=not before)
    batch, length, hidden = hidden_states.shape
    hidden_states = ops.view(hidden_states, (batch * length, hidden))
    residual = hidden_states
    hidden_states = _normed(modules, "final_layer_norm", hidden_states, here=before)
    hidden_states = modules["fc1"](hidden_states)
    context.set_scope(f"{modules.prefix}mlp: ")
    hidden_states = activation(context.config["hidden_act"])(hidden_states)
    for around in context.method.around_sublayer(modules, "mlp"):
        hidden_states = enter(around, hidden_states)
    hidden_states = context.method.after_sublayer(context, modules, "mlp", modules["fc2"](hidden_states))
    hidden_states = ops.dropout(hidden_states, context.config["dropout"], "MLP, dropped")
    hidden_states = ops.view(ops.add(residual, hidden_states, "residual after MLP"), (batch, length, hidden))
    return _normed(modules, "final_layer_norm", hidden_states, here=not before)


def _normed(modules: LayerModules, name: str, x: Tensor, *, here: bool) -> Tensor:
    """Run LayerNorm, which may have no parameters."""
    if not here:
        return x
    if name in modules:
        return norms.layer_norm(modules[name], x)
    return _without_parameters(f"{modules.prefix}{name}", x)


def _without_parameters(path: str, x: Tensor) -> Tensor:
    """Run LayerNorm that has no parameters."""
    x.tape.scope = f"{path}: "
    return leave(path, norms.functional_layer_norm(enter(path, x), None, None))


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    count = context.config["num_attention_heads"]
    query_states = modules["self_attn.q_proj"](hidden_states)
    context.set_scope(f"{modules.prefix}self_attn: ")
    query_states = ops.scale(query_states, "query, scaled")
    query_states = split_heads(context, query_states, count)
    key_states = modules["self_attn.k_proj"](hidden_states)
    value_states = modules["self_attn.v_proj"](hidden_states)
    key_states, value_states = split_heads(context, key_states, count), split_heads(context, value_states, count)
    context.set_scope(f"{modules.prefix}self_attn: ")
    key_states, value_states = context.update_cache(key_states, value_states)
    attn_output = attention.attend(context, query_states, key_states, value_states)
    return modules["self_attn.out_proj"](attn_output)


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Add word and position embeddings. If their widths differ, words are projected to the width of the layers."""
    context.set_scope("model.decoder.")
    tape, shape = context.tape, inputs_embeds.shape[:2]
    # positions are counted from the mask, unless they are given; if no mask is passed, the code makes one of ones
    counted_shape = (shape[0], shape[1] + context.past)
    counted = [] if context.training.passes_mask else [tape.new(counted_shape, "float32", "mask of ones")]
    given = context.gives_positions
    position_ids = context.position_ids(shape[1]) if given else tape.new(counted_shape, "int64", "position_ids")
    context.position_tables = (position_ids,)
    table = "model.decoder.embed_positions"
    begin(tape, table)
    pos_embeds = leave(table, embed(context, tape.new(shape, "int64", "position_ids + 2"), table))
    if context.has("model.decoder.project_in"):
        inputs_embeds = context.outer("model.decoder.project_in")(inputs_embeds)
    context.decoder_locals += [*counted, pos_embeds, inputs_embeds]
    return ops.add(inputs_embeds, pos_embeds, "words + positions")


def _positions(context: Context, _hidden_states: Tensor) -> tuple[Tensor, ...]:
    return context.position_tables


def _final_norm(context: Context, hidden_states: Tensor) -> Tensor:
    if context.has("model.decoder.final_layer_norm"):
        hidden_states = norms.layer_norm(context.outer("model.decoder.final_layer_norm"), hidden_states)
    elif context.config["do_layer_norm_before"] and not context.config["_remove_final_layer_norm"]:
        hidden_states = _without_parameters("model.decoder.final_layer_norm", hidden_states)
    if context.has("model.decoder.project_out"):
        hidden_states = context.outer("model.decoder.project_out")(hidden_states)
    return hidden_states


def _words(context: Context, ids: Tensor) -> Tensor:
    return embed(context, ids, "model.decoder.embed_tokens")


OPT = DecoderForward(
    layer=layer,
    embeddings=_words,
    before_layers=_before_layers,
    retained="neither",
    tables=_positions,
    flattens=False,
    final_norm=_final_norm,
)
