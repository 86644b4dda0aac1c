"""BART: an encoder and a decoder with learned positions and a norm after each sublayer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers import attention, masks, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed, identity
from calculator.layers.encoder import no_tables
from calculator.layers.seq2seq import encoder_pair, shift_labels

if TYPE_CHECKING:
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules

    Half = Literal["encoder", "decoder"]


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    heads = context.config["num_attention_heads" if context.encoder_states is None else "decoder_attention_heads"]
    hidden_states = _attend(context, modules, "self_attn", hidden_states, heads)
    if context.encoder_states is not None:
        hidden_states = _attend(context, modules, "encoder_attn", hidden_states, heads)
    return _feed_forward(context, modules, hidden_states)


def _attend(context: Context, modules: LayerModules, name: str, hidden_states: Tensor, heads: int) -> Tensor:
    residual = hidden_states
    hidden_states = _attention(context, modules, name, hidden_states, heads)
    if name == "self_attn":
        hidden_states = context.method.after_sublayer(context, modules, "attention", hidden_states)
    context.set_scope(modules.prefix)
    hidden_states = ops.dropout(hidden_states, context.config["dropout"] or 0.0, f"{name}, dropped")
    hidden_states = ops.add(residual, hidden_states, f"{name} + residual")
    return norms.layer_norm(modules[f"{name}_layer_norm"], hidden_states)


def _attention(context: Context, modules: LayerModules, name: str, hidden_states: Tensor, heads: int) -> Tensor:
    """Attend to the same sequence, or to the encoder's output. Queries, keys and values stay alive until the end."""
    crosses = name == "encoder_attn"
    query_states = _split_heads(modules[f"{name}.q_proj"](hidden_states), heads)
    key_states, value_states = _keys_and_values(context, modules, name, hidden_states, heads)
    outer = context.mask, context.is_causal
    if crosses:
        context.mask, context.is_causal = context.encoder_mask, False
    attn_output = attention.attend(context, query_states, key_states, value_states, attention.eager_without_casts)
    context.mask, context.is_causal = outer
    return modules[f"{name}.out_proj"](attn_output)


def _keys_and_values(
    context: Context, modules: LayerModules, name: str, hidden_states: Tensor, heads: int
) -> tuple[Tensor, ...]:
    """Return the keys and values of the decoder's tokens or of the encoder's output, including cached ones."""
    current = hidden_states
    if name == "encoder_attn" and context.encoder_states is not None:
        cached, current = encoder_pair(context), context.encoder_states
        if cached is not None:
            return cached
    key_states = modules[f"{name}.k_proj"](current)
    value_states = _split_heads(modules[f"{name}.v_proj"](current), heads)
    key_states = _split_heads(key_states, heads)
    context.set_scope(f"{modules.prefix}{name}: ")
    return context.update_cache(key_states, value_states)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    batch, length, width = x.shape
    return ops.view(x, (batch, heads, length, width // heads))


def _feed_forward(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    residual = hidden_states
    hidden_states = modules["fc1"](hidden_states)
    context.set_scope(modules.prefix)
    hidden_states = activation(context.config["hidden_act"])(hidden_states)
    hidden_states = ops.dropout(hidden_states, context.config["activation_dropout"] or 0.0, "activation, dropped")
    hidden_states = context.method.after_sublayer(context, modules, "mlp", modules["fc2"](hidden_states))
    context.set_scope(modules.prefix)
    hidden_states = ops.dropout(hidden_states, context.config["dropout"] or 0.0, "MLP, dropped")
    hidden_states = ops.add(residual, hidden_states, "MLP + residual")
    return norms.layer_norm(modules["final_layer_norm"], hidden_states)


def _source(context: Context, ids: Tensor) -> Tensor:
    """Shift the labels, and look up the embeddings of the source. PEFT, if it looks them up itself, does so earlier."""
    if not context.method.embeds_inputs:
        shift_labels(context)
    return _words(context, ids, "encoder")


def _words(context: Context, ids: Tensor, half: Half) -> Tensor:
    """Look up word embeddings and scale them. The factor is 1 if the config does not set scaling."""
    return ops.scale(embed(context, ids, f"model.{half}.embed_tokens"), "words, scaled")


def _encode(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Add positions to the source. Word and position embeddings stay alive while the layers run."""
    if context.decoder_ids is None:
        shift_labels(context)
    tape, (batch, length, _) = context.tape, inputs_embeds.shape
    context.set_scope("model.encoder.embed_positions: ")
    counted = tape.new((length,), "int64", "positions")
    position_ids = tape.new((batch, length), "int64", "positions + 2")
    del counted
    return _with_positions(context, inputs_embeds, position_ids, "encoder")


def _with_positions(context: Context, inputs_embeds: Tensor, position_ids: Tensor, half: Half) -> Tensor:
    positions = embed(context, position_ids, f"model.{half}.embed_positions")
    context.decoder_locals.append(positions)
    context.set_scope(f"model.{half}: ")
    hidden_states = ops.add(inputs_embeds, positions, "words + positions")
    hidden_states = norms.layer_norm(context.outer(f"model.{half}.layernorm_embedding"), hidden_states)
    context.set_scope(f"model.{half}: ")
    return ops.dropout(hidden_states, context.config["dropout"] or 0.0, "dropped")


def _target(context: Context, ids: Tensor) -> Tensor:
    """Embed the target. Word and position embeddings, and position ids, stay alive while the layers run."""
    inputs_embeds = _words(context, ids, "decoder")
    if context.training.gradient_checkpointing and not inputs_embeds.edge:
        inputs_embeds = context.input_requiring_grad(inputs_embeds)
    tape, length = context.tape, context.length
    context.set_scope("model.decoder: ")
    position_ids = tape.new((length,), "int64", "position_ids")
    _make_masks(context)
    context.decoder_locals += [inputs_embeds, position_ids]
    shifted = tape.new((1, length), "int64", "positions + 2")
    return _with_positions(context, inputs_embeds, shifted, "decoder")


def _make_masks(context: Context) -> None:
    """Make the mask of the target from a mask of ones, which also covers a prefix."""
    shape = (context.batch, context.past + context.length)
    ones = context.tape.new(shape, "float32", "mask of ones")
    context.padding_mask = context.tape.new(shape, "bool", "mask of ones, as bool")
    del ones
    context.masks = masks.by_attention_type(context)
    context.padding_mask = None


def _biased(context: Context, logits: Tensor) -> Tensor:
    """Add the buffer final_logits_bias."""
    context.set_scope("lm_head: ")
    bias = Tensor(context.tape, None, (1, logits.shape[2]), context.buffer_dtype, None)
    return ops.add(logits, bias, "logits + bias")


BART = DecoderForward(
    layer=_layer,
    embeddings=_source,
    before_layers=_encode,
    tables=no_tables,
    target=_target,
    takes_positions=False,
    special_tokens=("bos", "eos", "pad", "decoder_start"),
    forces_eos=True,
    final_norm=identity,
    logits=_biased,
    is_causal=False,
)
