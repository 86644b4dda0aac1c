"""T5: an encoder and a decoder whose attention adds relative position biases, RMSNorm before each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.families.t5.position_bias import compute_bias, position_bias_mask
from calculator.layers import attention, masks, norms
from calculator.layers.activation import activation
from calculator.layers.cache import Cache
from calculator.layers.decoder_forward import DecoderForward, embed
from calculator.layers.encoder import no_tables
from calculator.layers.self_attention import split_heads
from calculator.layers.seq2seq import encoder_pair

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _words(context: Context, ids: Tensor) -> Tensor:
    return embed(context, ids, "encoder.embed_tokens")


def _encode(context: Context, inputs_embeds: Tensor) -> Tensor:
    context.set_scope("encoder: ")
    return ops.dropout(inputs_embeds, context.config["dropout_rate"], "words, dropped")


def _encoded(context: Context, hidden_states: Tensor) -> Tensor:
    return _normed_and_dropped(context, "encoder", hidden_states)


def _target(context: Context, ids: Tensor) -> Tensor:
    """Embed the target. Its embeddings stay alive while the layers run."""
    inputs_embeds = embed(context, ids, "decoder.embed_tokens")
    if context.training.gradient_checkpointing and not inputs_embeds.edge:
        inputs_embeds = context.input_requiring_grad(inputs_embeds)
    context.decoder_locals.append(inputs_embeds)
    if context.config["use_cache"] and context.cache is None and not context.training.gradient_checkpointing:
        context.cache = Cache(windowed=False)
    context.masks = masks.by_attention_type(context)
    context.set_scope("decoder: ")
    return ops.dropout(inputs_embeds, context.config["dropout_rate"], "words, dropped")


def _normed_and_dropped(context: Context, name: str, hidden_states: Tensor) -> Tensor:
    hidden_states = norms.t5_layer_norm(context.outer(f"{name}.final_layer_norm"), hidden_states)
    context.set_scope(f"{name}: ")
    return ops.dropout(hidden_states, context.config["dropout_rate"], "dropped")


def _final_norm(context: Context, hidden_states: Tensor) -> Tensor:
    """Run the final norm of the decoder, and scale its output for the head."""
    hidden_states = _normed_and_dropped(context, "decoder", hidden_states)
    context.forward_locals.append(hidden_states)
    if not context.config["scale_decoder_outputs"]:
        return hidden_states
    context.set_scope("")
    return ops.scale(hidden_states, "decoder's output, scaled")


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    hidden_states = _attend(context, modules, "layer.0", "SelfAttention", hidden_states)
    if context.encoder_states is None:
        return _feed_forward(context, modules, "layer.1", hidden_states)
    hidden_states = _attend(context, modules, "layer.1", "EncDecAttention", hidden_states)
    return _feed_forward(context, modules, "layer.2", hidden_states)


def _attend(context: Context, modules: LayerModules, place: str, name: str, hidden_states: Tensor) -> Tensor:
    normed = norms.t5_layer_norm(modules[f"{place}.layer_norm"], hidden_states)
    attention_output = _attention(context, modules, f"{place}.{name}", normed)
    context.set_scope(f"{modules.prefix}{place}: ")
    dropped = ops.dropout(attention_output, context.config["dropout_rate"], "attention, dropped")
    if name == "SelfAttention":
        dropped = context.method.after_sublayer(context, modules, "attention", dropped)
        context.set_scope(f"{modules.prefix}{place}: ")
    return ops.add(hidden_states, dropped, "residual after attention")


def _attention(context: Context, modules: LayerModules, name: str, hidden_states: Tensor) -> Tensor:
    """Attend with a bias in place of the mask. Queries, keys and values stay alive until the end."""
    heads, crosses = context.config["num_attention_heads"], name.endswith("EncDecAttention")
    query_states = split_heads(context, modules[f"{name}.q"](hidden_states), heads)
    key_states, value_states = _keys_and_values(context, modules, name, hidden_states)
    position_bias = _shared_bias(context, modules, name, query_states, key_states)
    context.set_scope(f"{modules.prefix}{name}: ")
    outer = context.mask
    given = context.encoder_mask if crosses else outer
    causal = context.encoder_states is not None and not crosses and context.length > 1
    context.mask = position_bias_mask(context, position_bias, given, causal=causal, permuted=not crosses)
    del position_bias
    attn_output = attention.attend(context, query_states, key_states, value_states)
    context.mask = outer
    return modules[f"{name}.o"](attn_output)


def _keys_and_values(context: Context, modules: LayerModules, name: str, hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return the keys and values of the decoder's tokens or of the encoder's output, including cached ones."""
    crosses, current, heads = name.endswith("EncDecAttention"), hidden_states, context.config["num_attention_heads"]
    if crosses and context.encoder_states is not None:
        cached, current = encoder_pair(context), context.encoder_states
        if cached is not None:
            return cached
    key_states = split_heads(context, modules[f"{name}.k"](current), heads)
    value_states = split_heads(context, modules[f"{name}.v"](current), heads)
    context.set_scope(f"{modules.prefix}{name}: ")
    return context.update_cache(key_states, value_states)


def _shared_bias(context: Context, modules: LayerModules, name: str, query: Tensor, key: Tensor) -> Tensor:
    """Return the bias that the first layer makes for all layers of a stack. For cross-attention it is zero."""
    crosses = name.endswith("EncDecAttention")
    shared = context.position_biases.get(crosses)
    if shared is not None:
        return shared
    if crosses:
        bias = context.tape.new((1, *query.shape[1:3], key.shape[2]), query.dtype, "position bias of zeros")
        if context.training.gradient_checkpointing and context.tape.trains:
            bias = context.input_requiring_grad(bias, "position bias of zeros")
    else:
        table = modules[f"{name}.relative_attention_bias"]
        bias = compute_bias(context, table, query.shape[2], key.shape[2])
    context.position_biases[crosses] = bias
    return bias


def _feed_forward(context: Context, modules: LayerModules, place: str, hidden_states: Tensor) -> Tensor:
    normed = norms.t5_layer_norm(modules[f"{place}.layer_norm"], hidden_states)
    forwarded = _dense(context, modules, f"{place}.DenseReluDense", normed)
    del normed
    context.set_scope(f"{modules.prefix}{place}: ")
    dropped = ops.dropout(forwarded, context.config["dropout_rate"], "MLP, dropped")
    dropped = context.method.after_sublayer(context, modules, "mlp", dropped)
    context.set_scope(f"{modules.prefix}{place}: ")
    return ops.add(hidden_states, dropped, "residual after MLP")


def _dense(context: Context, modules: LayerModules, name: str, x: Tensor) -> Tensor:
    act, scope = activation(context.config["hidden_act"]), f"{modules.prefix}{name}: "
    if not context.config["is_gated_act"]:
        hidden = modules[f"{name}.wi"](x)
        context.set_scope(scope)
        hidden = act(hidden)
        hidden = ops.dropout(hidden, context.config["dropout_rate"], "activation, dropped")
        return modules[f"{name}.wo"](hidden)
    gate = modules[f"{name}.wi_0"](x)
    context.set_scope(scope)
    hidden_gelu = act(gate)
    del gate
    hidden_linear = modules[f"{name}.wi_1"](x)
    context.set_scope(scope)
    hidden = ops.mul(hidden_gelu, hidden_linear, "gate · linear")
    hidden = ops.dropout(hidden, context.config["dropout_rate"], "product, dropped")
    return modules[f"{name}.wo"](hidden)


T5 = DecoderForward(
    layer=_layer,
    embeddings=_words,
    before_layers=_encode,
    tables=no_tables,
    encoded=_encoded,
    target=_target,
    takes_positions=False,
    special_tokens=("eos", "pad", "decoder_start"),
    final_norm=_final_norm,
    is_causal=False,
)
