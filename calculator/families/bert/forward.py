"""BERT and RoBERTa: three embedding tables, bidirectional attention, and a norm after each sublayer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Literal

from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers import attention, norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed, identity
from calculator.layers.encoder import first_token, no_tables
from calculator.layers.self_attention import split_heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.config import Config
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


#: The modules of a layer that follow its sublayers.
Output = Literal["attention.output", "output"]

_SUBLAYERS: dict[Output, Literal["attention", "mlp"]] = {"attention.output": "attention", "output": "mlp"}


def encoder_layer(
    context: Context, modules: LayerModules, hidden_states: Tensor, attend: Callable[..., Tensor] | None = None
) -> Tensor:
    """Run attention and the MLP, each followed by a norm. `attend` is the self-attention of a family."""
    attention_output = _attention(context, modules, hidden_states, attend or _self_attention)
    intermediate_output = modules["intermediate.dense"](attention_output)
    context.set_scope(f"{modules.prefix}intermediate: ")
    intermediate_output = activation(context.config["hidden_act"])(intermediate_output)
    return _output(context, modules, "output", intermediate_output, attention_output)


def _attention(context: Context, modules: LayerModules, hidden_states: Tensor, attend: Callable[..., Tensor]) -> Tensor:
    attention_output = attend(context, modules, hidden_states)
    return _output(context, modules, "attention.output", attention_output, hidden_states)


def _output(context: Context, modules: LayerModules, name: Output, x: Tensor, input_tensor: Tensor) -> Tensor:
    """Project the result of a sublayer, apply dropout, add the residual and normalize.

    The input of the projection stays alive in the caller.
    """
    hidden_states = modules[f"{name}.dense"](x)
    context.set_scope(f"{modules.prefix}{name}: ")
    dropped = ops.dropout(hidden_states, context.config["hidden_dropout_prob"], "dropped")
    hidden_states = context.method.after_sublayer(context, modules, _SUBLAYERS[name], dropped)
    del dropped
    context.set_scope(f"{modules.prefix}{name}: ")
    summed = ops.add(hidden_states, input_tensor, "sum with the residual")
    return norms.layer_norm(modules[f"{name}.LayerNorm"], summed)


def _self_attention(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    heads = context.config["num_attention_heads"]
    query_layer, key_layer, value_layer = (
        split_heads(context, modules[f"attention.self.{name}"](hidden_states), heads)
        for name in ("query", "key", "value")
    )
    context.set_scope(f"{modules.prefix}attention.self: ")
    return attention.attend(context, query_layer, key_layer, value_layer, attention.eager_without_casts)


def _words(context: Context, ids: Tensor, name: str) -> Tensor:
    """Make the ids of positions and token types, and look up word embeddings."""
    if not context.method.embeds_inputs:
        context.position_tables = _numbers(context, name)
    return embed(context, ids, f"{name}.embeddings.word_embeddings")


def _numbers(context: Context, name: str) -> tuple[Tensor, Tensor]:
    """Return the position ids and the token type ids, which are gathered from a buffer of zeros."""
    tape = context.tape
    context.set_scope(f"{name}.embeddings: ")
    position_ids = _position_ids(context, name)
    token_type_ids = tape.new(position_ids.shape, "int64", "token_type_ids")
    return position_ids, token_type_ids


def _position_ids(context: Context, name: str) -> Tensor:
    """Return a view of BERT's buffer of position ids. RoBERTa counts the tokens that are not padding."""
    tape, shape = context.tape, (context.batch, context.length)
    if name == "bert":
        return Tensor(tape, None, (1, context.length), "int64", None)
    if context.method.embeds_inputs:
        counted = tape.new((context.length,), "int64", "positions")
        return ops.expand(counted, shape)
    differs = tape.new(shape, "bool", "tokens that are no padding")
    mask = tape.new(shape, "int32", "tokens, as int32")
    del differs
    counted = tape.new(shape, "int64", "tokens, counted")
    counted = tape.new(shape, "int32", "tokens, counted, as int32")
    counted = tape.new(shape, "int32", "tokens before, counted")
    incremental_indices = tape.new(shape, "int32", "positions of tokens")
    del counted
    positions = tape.new(shape, "int64", "positions of tokens, as int64")
    position_ids = tape.new(shape, "int64", "position_ids")
    del mask, incremental_indices, positions
    return position_ids


def _before_layers(context: Context, inputs_embeds: Tensor, name: str) -> Tensor:
    """Add the embeddings of token types and positions to the word embeddings, then normalize and apply dropout."""
    prefix = f"{name}.embeddings"
    position_ids, token_type_ids = context.position_tables or _numbers(context, name)
    context.position_tables = ()
    types = ops.expand(token_type_ids, inputs_embeds.shape[:2])
    token_type_embeddings = embed(context, types, f"{prefix}.token_type_embeddings")
    context.set_scope(f"{prefix}: ")
    embeddings = ops.add(inputs_embeds, token_type_embeddings, "words + token types")
    position_embeddings = embed(context, position_ids, f"{prefix}.position_embeddings")
    context.set_scope(f"{prefix}: ")
    embeddings = ops.add(embeddings, position_embeddings, "words + token types + positions")
    embeddings = norms.layer_norm(context.outer(f"{prefix}.LayerNorm"), embeddings)
    context.set_scope(f"{prefix}: ")
    return ops.dropout(embeddings, context.config["hidden_dropout_prob"], "dropped")


def _pool(context: Context, hidden_states: Tensor, name: str = "bert") -> Tensor:
    """Run BERT's pooler on the first token of each sequence. The layers' output stays alive until the model returns."""
    context.forward_locals.append(hidden_states)
    pooled_output = context.outer(f"{name}.pooler.dense")(first_token(hidden_states))
    context.set_scope(f"{name}.pooler: ")
    return ops.unary(pooled_output, "tanh", saves="result")


def _pooled_too(context: Context, hidden_states: Tensor, name: str) -> Tensor:
    """Run the pooler, whose result the model also returns, and return the hidden states."""
    context.forward_locals.append(_pool(context, hidden_states, name))
    return hidden_states


def _bert_scores(context: Context, pooled_output: Tensor) -> Tensor:
    context.set_scope("")
    return context.outer("classifier")(_dropped(context, pooled_output, "pooled, dropped"))


def _roberta_scores(context: Context, hidden_states: Tensor) -> Tensor:
    context.set_scope("classifier: ")
    x = _dropped(context, first_token(hidden_states), "first tokens, dropped")
    x = context.outer("classifier.dense")(x)
    context.set_scope("classifier: ")
    x = ops.unary(x, "tanh", saves="result")
    x = _dropped(context, x, "tanh, dropped")
    return context.outer("classifier.out_proj")(x)


def _dropped(context: Context, x: Tensor, name: str) -> Tensor:
    dropout = context.config["classifier_dropout"]
    return ops.dropout(x, context.config["hidden_dropout_prob"] if dropout is None else dropout, name)


def _unsupported(config: Config) -> Iterator[tuple[str, str]]:
    if config["is_decoder"]:
        yield "is_decoder", "attention to earlier tokens only is not modeled: make it false"


DROPOUTS = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")

BERT = DecoderForward(
    layer=encoder_layer,
    embeddings=partial(_words, name="bert"),
    before_layers=partial(_before_layers, name="bert"),
    retained="input",
    tables=no_tables,
    final_norm=_pool,
    scores=_bert_scores,
    is_causal=False,
    dropout_modules=DROPOUTS,
    unsupported_fields=_unsupported,
)

ROBERTA = replace(
    BERT,
    embeddings=partial(_words, name="roberta"),
    before_layers=partial(_before_layers, name="roberta"),
    final_norm=identity,
    scores=_roberta_scores,
)

#: The models for token tasks. They have no pooler, and their loss takes logits in the model's data type.
BERT_TOKENS = replace(BERT, final_norm=identity, scores=None, casts_token_logits=False)
ROBERTA_TOKENS = replace(ROBERTA, scores=None, casts_token_logits=False)

#: The models without a head.
BERT_TEXTS = replace(BERT_TOKENS, final_norm=partial(_pooled_too, name="bert"))
ROBERTA_TEXTS = replace(ROBERTA_TOKENS, final_norm=partial(_pooled_too, name="roberta"))
