"""ModernBERT: bidirectional attention with rotary embeddings, in windows in most layers, and norms before sublayers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers import attention, norms, rotary
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import (
    DecoderForward,
    embed,
    final,
    rotary_tables_per_type,
    tables_of_type,
)
from calculator.layers.encoder import first_token, mean_of_tokens

if TYPE_CHECKING:
    from calculator.architecture.layer_kind import MixerType
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _words(context: Context, ids: Tensor) -> Tensor:
    return embed(context, ids, "model.embeddings.tok_embeddings")


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    hidden_states = norms.layer_norm(context.outer("model.embeddings.norm"), inputs_embeds)
    context.set_scope("model.embeddings: ")
    return ops.dropout(hidden_states, context.config["embedding_dropout"], "dropped")


def _tables_of(tables: tuple[Tensor, ...], attention: MixerType) -> tuple[Tensor, ...]:
    """Return cos and sin of an attention type. Layers do not receive position_ids."""
    return tables_of_type(tables, attention)[:2]


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    attn_output = _attention_sublayer(context, modules, hidden_states)
    context.set_scope(modules.prefix)
    hidden_states = ops.add(hidden_states, attn_output, "residual after attention")
    mlp_output = _mlp_sublayer(context, modules, hidden_states)
    context.set_scope(modules.prefix)
    return ops.add(hidden_states, mlp_output, "residual after MLP")


def _attention_sublayer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Normalize and attend. The first layer has no norm. The norm's output stays alive while an adapter runs."""
    normed = norms.layer_norm(modules["attn_norm"], hidden_states) if "attn_norm" in modules else hidden_states
    attn_output = _attention(context, modules, normed)
    return context.method.after_sublayer(context, modules, "attention", attn_output)


def _mlp_sublayer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    normed = norms.layer_norm(modules["mlp_norm"], hidden_states)
    return context.method.after_sublayer(context, modules, "mlp", _mlp(context, modules, normed))


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Attend with queries, keys and values from one projection, which stays alive until the module returns."""
    config = context.config
    batch, length, _ = hidden_states.shape
    qkv = modules["attn.Wqkv"](hidden_states)
    context.set_scope(f"{modules.prefix}attn: ")
    heads = (batch, config["num_attention_heads"], length, config["head_dim"])
    query_states, key_states, value_states = ops.split(qkv, [heads] * 3, stacks=True)
    query_states, key_states = _rotated(context, query_states, key_states)
    attn_output = attention.attend(context, query_states, key_states, value_states)
    projected = modules["attn.Wo"](attn_output)
    context.set_scope(f"{modules.prefix}attn: ")
    return ops.dropout(projected, config["attention_dropout"], "attention, dropped")


def _rotated(context: Context, query: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate in float32, to which each factor is cast separately, and cast both results back."""
    q_embed, k_embed = (_to_float32(context, x, name) for x, name in ((query, "query"), (key, "key")))
    return ops.cast(q_embed, query.dtype, "query, cast back"), ops.cast(k_embed, key.dtype, "key, cast back")


def _to_float32(context: Context, x: Tensor, name: str) -> Tensor:
    cos, sin = context.position_tables[:2]
    cast = f"{name} in float32"
    product = ops.mul(ops.cast(x, "float32", cast), cos, f"{name} · cos")
    turned = ops.mul(rotary.rotate_half(ops.cast(x, "float32", cast)), sin, f"{name}, rotated · sin")
    return ops.add(product, turned, f"{name}, rotated")


def _mlp(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Return Wo(dropout(act(input) · gate)), where input and gate are the halves of one projection."""
    projected = modules["mlp.Wi"](hidden_states)
    context.set_scope(f"{modules.prefix}mlp: ")
    half = (*projected.shape[:-1], modules["mlp.Wo"].module.in_features)
    given, gate = ops.split(projected, [half, half])
    del projected
    product = ops.mul(activation(context.config["hidden_act"])(given), gate, "activated input · gate")
    product = ops.dropout(product, context.config["mlp_dropout"], "product, dropped")
    return modules["mlp.Wo"](product)


def _head(context: Context, x: Tensor) -> Tensor:
    """Run ModernBertPredictionHead and dropout."""
    x = context.outer("head.dense")(x)
    context.set_scope("head: ")
    x = activation(context.config["classifier_activation"])(x)
    x = norms.layer_norm(context.outer("head.norm"), x)
    context.set_scope("")
    return ops.dropout(x, context.config["classifier_dropout"], "head, dropped")


def _scores(context: Context, hidden_states: Tensor) -> Tensor:
    if context.config["classifier_pooling"] == "cls":
        pooled = first_token(hidden_states)
    else:
        pooled = mean_of_tokens(context, hidden_states)
    return context.outer("classifier")(_head(context, pooled))


MODERNBERT = DecoderForward(
    layer=_layer,
    embeddings=_words,
    before_layers=_before_layers,
    retained="input",
    tables=rotary_tables_per_type,
    tables_for=_tables_of,
    masks=("full_attention", "sliding_attention"),
    final_norm=final(norms.layer_norm, "model.final_norm"),
    scores=_scores,
    is_causal=False,
    dropout_modules=("embedding_dropout", "mlp_dropout", "classifier_dropout"),
)

#: The models for token tasks, whose loss takes logits in the model's data type.
TOKENS = replace(MODERNBERT, scores=None, before_token_head=_head, casts_token_logits=False)
