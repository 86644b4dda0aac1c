"""DistilBERT: learned positions, bidirectional attention, and a norm after each sublayer."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers import attention, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed, identity
from calculator.layers.encoder import first_token, no_tables
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


def _words(context: Context, ids: Tensor) -> Tensor:
    return embed(context, ids, "distilbert.embeddings.word_embeddings")


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Add position embeddings to the word embeddings, then normalize and apply dropout."""
    position_ids = Tensor(context.tape, None, (1, inputs_embeds.shape[1]), "int64", None)
    position_embeddings = embed(context, position_ids, "distilbert.embeddings.position_embeddings")
    context.set_scope("distilbert.embeddings: ")
    embeddings = ops.add(inputs_embeds, position_embeddings, "words + positions")
    embeddings = norms.layer_norm(context.outer("distilbert.embeddings.LayerNorm"), embeddings)
    context.set_scope("distilbert.embeddings: ")
    return ops.dropout(embeddings, context.config["dropout"], "dropped")


def _layer(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    out = _attention(context, modules, hidden_states)
    out = context.method.after_sublayer(context, modules, "attention", out)
    context.set_scope(modules.prefix)
    summed = ops.add(out, hidden_states, "attention + residual")
    attention_output = norms.layer_norm(modules["sa_layer_norm"], summed)
    del out, summed
    ffn_output = _feed_forward(context, modules, attention_output)
    ffn_output = context.method.after_sublayer(context, modules, "mlp", ffn_output)
    context.set_scope(modules.prefix)
    summed = ops.add(ffn_output, attention_output, "MLP + residual")
    return norms.layer_norm(modules["output_layer_norm"], summed)


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run attention. Queries, keys and values stay alive until the module returns."""
    heads = context.config["num_attention_heads"]
    query_layer, key_layer, value_layer = (
        split_heads(context, modules[f"attention.{name}_lin"](hidden_states), heads) for name in ("q", "k", "v")
    )
    context.set_scope(f"{modules.prefix}attention: ")
    out = attention.attend(context, query_layer, key_layer, value_layer, attention.eager_without_casts)
    return modules["attention.out_lin"](out)


def _feed_forward(context: Context, modules: LayerModules, x: Tensor) -> Tensor:
    x = modules["ffn.lin1"](x)
    context.set_scope(f"{modules.prefix}ffn: ")
    x = activation(context.config["hidden_act"])(x)
    x = modules["ffn.lin2"](x)
    context.set_scope(f"{modules.prefix}ffn: ")
    return ops.dropout(x, context.config["dropout"], "dropped")


def _scores(context: Context, hidden_states: Tensor) -> Tensor:
    x = context.outer("pre_classifier")(first_token(hidden_states))
    context.set_scope("")
    x = ops.unary(x, "relu", saves="result")
    x = ops.dropout(x, context.config["seq_classif_dropout"], "pooled, dropped")
    return context.outer("classifier")(x)


DISTILBERT = DecoderForward(
    layer=_layer,
    embeddings=_words,
    before_layers=_before_layers,
    retained="input",
    tables=no_tables,
    final_norm=identity,
    scores=_scores,
    is_causal=False,
    dropout_modules=("dropout", "attention_dropout", "seq_classif_dropout"),
)

#: The models for token tasks, whose loss takes logits in the model's data type.
TOKENS = replace(DISTILBERT, scores=None, casts_token_logits=False)
