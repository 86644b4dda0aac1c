"""Whisper: an audio encoder after two convolutions, a decoder that attends to it, and a norm before each sublayer.

The output of the second convolution is transposed, and each sum of residuals in the encoder has its layout. Norms
therefore copy their input (ATen/native/cuda/layer_norm_kernel.cu).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.indexing import index
from calculator.layers import attention, norms
from calculator.layers.activation import activation
from calculator.layers.cache import Cache
from calculator.layers.decoder_forward import DecoderForward, embed, final
from calculator.layers.encoder import no_tables
from calculator.layers.seq2seq import encoder_pair, shift_labels

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

_GELU = activation("gelu")


def _first_convolution(context: Context, input_features: Tensor) -> Tensor:
    """Shift the labels, and run the first convolution: (batch, mel bins, frames) to (batch, hidden_size, frames)."""
    shift_labels(context)
    return _convolve(context, "conv1", input_features, input_features.shape[2])


def _convolve(context: Context, name: str, x: Tensor, frames: int) -> Tensor:
    module = context.outer(f"model.encoder.{name}")
    context.set_scope(f"model.encoder.{name}: ")
    weight = module.own["weight"]
    return products.convolution(x, weight, module.own["bias"], (context.batch, weight.shape[0], frames), "output")


def _encode(context: Context, convolved: Tensor) -> Tensor:
    """Halve the frames and add positions. The output of the convolutions and the position ids stay alive."""
    context.set_scope("model.encoder: ")
    inputs_embeds = _GELU(convolved)
    del convolved
    inputs_embeds = _convolve(context, "conv2", inputs_embeds, context.length)
    context.set_scope("model.encoder: ")
    inputs_embeds = _GELU(inputs_embeds)
    positions = context.tape.new((context.length,), "int64", "positions")
    context.decoder_locals += [inputs_embeds, positions]
    table = context.outer("model.encoder.embed_positions")
    rows = products.embedding(positions, table.own["weight"], inputs_embeds.shape[1], "embed_positions")
    transposed = ops.view(inputs_embeds, (context.batch, context.length, inputs_embeds.shape[1]))
    hidden_states = ops.add(transposed, rows, "audio + positions")
    del rows
    return ops.dropout(hidden_states, context.config["dropout"], "dropped")


def _encoded(context: Context, hidden_states: Tensor) -> Tensor:
    return norms.transposed_layer_norm(context.outer("model.encoder.layer_norm"), hidden_states)


def _target(context: Context, ids: Tensor) -> Tensor:
    """Embed the target. Word and position embeddings, and position ids, stay alive while the layers run."""
    inputs_embeds = embed(context, ids, "model.decoder.embed_tokens")
    if context.prepared.grads_inputs and not inputs_embeds.edge:
        inputs_embeds = context.input_requiring_grad(inputs_embeds)
    if context.caches:
        context.cache = Cache(windowed=False)
    hidden_states = _with_positions(context, inputs_embeds)
    context.masks = {"full_attention": None}
    context.decoder_locals.append(inputs_embeds)
    return ops.dropout(hidden_states, context.config["dropout"], "words + positions, dropped")


def _with_positions(context: Context, inputs_embeds: Tensor) -> Tensor:
    tape, length = context.tape, context.length
    context.set_scope("model.decoder: ")
    counted = tape.new((length,), "int64", "positions")
    counted = tape.new((length,), "int64", "positions after the cache's")
    position_ids = tape.new((context.batch, length), "int64", "position_ids")
    del counted
    table = context.outer("model.decoder.embed_positions")
    positions = index(table.own["weight"], position_ids, "embed_positions")
    context.decoder_locals += [position_ids, positions]
    return ops.add(inputs_embeds, positions, "words + positions")


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    decodes = context.encoder_states is not None
    heads = context.config["decoder_attention_heads" if decodes else "num_attention_heads"]
    hidden_states = _attend(context, modules, "self_attn", hidden_states, heads)
    if decodes:
        hidden_states = _attend(context, modules, "encoder_attn", hidden_states, heads)
    return _feed_forward(context, modules, hidden_states)


def _norm(context: Context, modules: LayerModules, name: str, x: Tensor) -> Tensor:
    run = norms.transposed_layer_norm if context.encoder_states is None else norms.layer_norm
    return run(modules[name], x)


def _attend(context: Context, modules: LayerModules, name: str, hidden_states: Tensor, heads: int) -> Tensor:
    residual = hidden_states
    hidden_states = _norm(context, modules, f"{name}_layer_norm", hidden_states)
    hidden_states = _attention(context, modules, name, hidden_states, heads)
    if name == "self_attn":
        hidden_states = context.method.after_sublayer(context, modules, "attention", hidden_states)
    context.set_scope(modules.prefix)
    hidden_states = ops.dropout(hidden_states, context.config["dropout"], f"{name}, dropped")
    return ops.add(residual, hidden_states, f"{name} + residual")


def _attention(context: Context, modules: LayerModules, name: str, hidden_states: Tensor, heads: int) -> Tensor:
    """Attend to the same sequence, or to the encoder's output. Queries, keys and values stay alive until the end."""
    crosses = name == "encoder_attn"
    current = context.encoder_states if crosses and context.encoder_states is not None else hidden_states
    query_states = modules[f"{name}.q_proj"](hidden_states)
    scope = f"{modules.prefix}{name}: "
    context.set_scope(scope)
    query_states = ops.scale(query_states, "query, scaled")
    query_states = _split_heads(query_states, heads, "query, by heads")
    cached = encoder_pair(context) if crosses else None
    key_states, value_states = cached or _keys_and_values(context, modules, name, current, heads)
    causal = context.is_causal
    context.is_causal = causal and not crosses
    attn_output = attention.attend(context, query_states, key_states, value_states)
    context.is_causal = causal
    return modules[f"{name}.out_proj"](attn_output)


def _keys_and_values(
    context: Context, modules: LayerModules, name: str, current: Tensor, heads: int
) -> tuple[Tensor, ...]:
    scope = f"{modules.prefix}{name}: "
    key_states = modules[f"{name}.k_proj"](current)
    context.set_scope(scope)
    key_states = _split_heads(key_states, heads, "key, by heads")
    value_states = modules[f"{name}.v_proj"](current)
    context.set_scope(scope)
    value_states = _split_heads(value_states, heads, "value, by heads")
    return context.update_cache(key_states, value_states)


def _split_heads(x: Tensor, heads: int, name: str) -> Tensor:
    """View (batch, sequence, hidden_size) by heads and copy it. With a single head or token there is no copy."""
    batch, length, width = x.shape
    shape = (batch, heads, length, width // heads)
    return ops.view(x, shape) if 1 in (heads, length) else ops.contiguous(ops.permute(x, shape), name)


def _feed_forward(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    residual = hidden_states
    normed = _norm(context, modules, "final_layer_norm", hidden_states)
    hidden_states = modules["fc1"](normed)
    context.set_scope(modules.prefix)
    hidden_states = activation(context.config["hidden_act"])(hidden_states)
    del normed
    hidden_states = ops.dropout(hidden_states, context.config["activation_dropout"], "activation, dropped")
    hidden_states = context.method.after_sublayer(context, modules, "mlp", modules["fc2"](hidden_states))
    context.set_scope(modules.prefix)
    hidden_states = ops.dropout(hidden_states, context.config["dropout"], "MLP, dropped")
    return ops.add(residual, hidden_states, "MLP + residual")


WHISPER = DecoderForward(
    layer=_layer,
    embeddings=_first_convolution,
    before_layers=_encode,
    retained="neither",
    tables=no_tables,
    encoded=_encoded,
    target=_target,
    takes_positions=False,
    special_tokens=("bos", "eos", "pad", "decoder_start"),
    final_norm=final(norms.layer_norm, "model.decoder.layer_norm"),
    is_causal=False,
)
