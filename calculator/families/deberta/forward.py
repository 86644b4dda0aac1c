"""DeBERTa v2 and v3: the embeddings, the inputs of every encoder layer, and the heads."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from calculator.engine import indexing
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.families.bert.forward import encoder_layer
from calculator.families.deberta.attention import Relative, attend
from calculator.layers import norms
from calculator.layers.activation import activation
from calculator.layers.decoder_forward import DecoderForward, embed, identity
from calculator.layers.encoder import first_token, no_tables
from calculator.layers.loss import cross_entropy, float32_logits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.config import Config
    from calculator.layers.context import Context

_EMBEDDINGS = "deberta.embeddings"
_ENCODER = "deberta.encoder"


def _words(context: Context, ids: Tensor) -> Tensor:
    """Make a mask of ones if none is passed, make the token types, and look up word embeddings."""
    if not context.method.embeds_inputs:
        _make_inputs(context)
    return embed(context, ids, f"{_EMBEDDINGS}.word_embeddings")


def _make_inputs(context: Context) -> None:
    """Keep the mask and the token types alive until the encoder returns."""
    shape = (context.batch, context.length)
    context.set_scope("deberta: ")
    if context.padding_mask is None and context.training.padding:
        context.padding_mask = Tensor(context.tape, None, shape, "int64", None)
    elif context.padding_mask is None:
        context.padding_mask = context.tape.new(shape, "float32", "mask of ones")
    context.position_tables = (context.tape.new(shape, "int64", "token_type_ids"),)
    context.decoder_locals += context.position_tables


def _before_layers(context: Context, inputs_embeds: Tensor) -> Tensor:
    """Finish the embeddings, and make the inputs of all layers.

    The inputs are the mask of token pairs, the distances and their table.
    """
    if context.method.embeds_inputs:
        _make_inputs(context)
    embedded = _embedded(context, inputs_embeds)
    context.position_tables = ()
    mask, length = context.padding_mask, context.length
    assert mask is not None
    context.set_scope(f"{_ENCODER}: ")
    pairs = context.tape.new((context.batch, 1, length, length), mask.dtype, "mask of pairs")
    distances = _distances(context) if context.config["relative_attention"] else None
    context.passed = Relative(pairs, distances, _table(context))
    context.decoder_locals.append(embedded)
    return embedded


def _embedded(context: Context, inputs_embeds: Tensor) -> Tensor:
    config, tape = context.config, context.tape
    positions, embeddings = None, inputs_embeds
    if config["position_biased_input"]:
        numbers = Tensor(tape, None, (1, context.length), "int64", None)
        positions = embed(context, numbers, f"{_EMBEDDINGS}.position_embeddings")
        context.set_scope(f"{_EMBEDDINGS}: ")
        embeddings = ops.add(embeddings, positions, "words + positions")
    else:
        context.set_scope(f"{_EMBEDDINGS}: ")
        positions = tape.new(inputs_embeds.shape, inputs_embeds.dtype, "positions of zeros")
    if config["type_vocab_size"]:
        types = embed(context, context.position_tables[0], f"{_EMBEDDINGS}.token_type_embeddings")
        context.set_scope(f"{_EMBEDDINGS}: ")
        embeddings = ops.add(embeddings, types, "words + token types")
    if context.has(f"{_EMBEDDINGS}.embed_proj"):
        embeddings = context.outer(f"{_EMBEDDINGS}.embed_proj")(embeddings)
    embeddings = norms.layer_norm(context.outer(f"{_EMBEDDINGS}.LayerNorm"), embeddings)
    context.set_scope(f"{_EMBEDDINGS}: ")
    assert context.padding_mask is not None
    given = ops.view(context.padding_mask, (context.batch, context.length, 1))
    mask = ops.cast(given, embeddings.dtype, "mask in the embeddings' dtype")
    embeddings = ops.mul(embeddings, mask, "embeddings · mask")
    return ops.dropout(embeddings, config["hidden_dropout_prob"], "dropped")


def _distances(context: Context) -> Tensor:
    """Return the distance of every token pair. The distances are buckets if the config sets their number."""
    tape, length, config = context.tape, context.length, context.config
    counted = [tape.new((length,), "int64", name) for name in ("queries", "keys")]
    distances = tape.new((length, length), "int64", "distances")
    if config["position_buckets"] > 0:
        distances = _log_buckets(distances)
    del counted
    return distances


def _log_buckets(distances: Tensor) -> Tensor:
    """Run make_log_bucket_position."""
    tape, shape = distances.tape, distances.shape
    sign = tape.new(shape, "int64", "signs")
    near = [tape.new(shape, "bool", name) for name in ("below the middle", "above its negative", "near")]
    absolute = tape.new(shape, "int64", "absolute distances")
    chosen = tape.new(shape, "int64", "distances from the middle on")
    del near, absolute
    logs = tape.new(shape, "float32", "quotients")
    for name in ("logarithms", "logarithms, divided", "logarithms, scaled", "logarithms, rounded"):
        logs = tape.new(shape, "float32", name)
    logs = tape.new(shape, "float32", "buckets of far distances")
    close = tape.new(shape, "bool", "close")
    parts = [tape.new(shape, "float32", name) for name in ("distances as float32", "buckets with sign")]
    buckets = tape.new(shape, "float32", "buckets")
    del sign, chosen, logs, close, parts
    return tape.new(buckets.shape, "int64", "buckets as int64")


def _table(context: Context) -> Tensor | None:
    """Return the embeddings of distances, normalized if the config sets a norm."""
    if not context.config["relative_attention"]:
        return None
    table = context.outer(f"{_ENCODER}.rel_embeddings").own["weight"]
    if "layer_norm" not in context.config["norm_rel_ebd"]:
        return table
    return norms.layer_norm(context.outer(f"{_ENCODER}.LayerNorm"), table)


def _scores(context: Context, hidden_states: Tensor) -> Tensor:
    config, cls_dropout = context.config, context.config["cls_dropout"]
    context.set_scope("pooler: ")
    pooled = ops.dropout(first_token(hidden_states), config["pooler_dropout"], "first tokens, dropped")
    pooled = context.outer("pooler.dense")(pooled)
    context.set_scope("pooler: ")
    pooled = activation(config["pooler_hidden_act"])(pooled)
    context.set_scope("")
    pooled = ops.dropout(
        pooled, config["hidden_dropout_prob"] if cls_dropout is None else cls_dropout, "pooled, dropped"
    )
    return context.outer("classifier")(pooled)


def _loss(context: Context, scores: Tensor, labels: Tensor) -> Tensor:
    """Gather the sequences that have a label, and compute the loss in float32."""
    tape = context.tape
    labeled = tape.new(labels.shape, "bool", "sequences with a label")
    numbers = tape.new((*labels.shape, 1), "int64", "numbers of sequences with a label")
    del labeled
    rows = indexing.gather(scores, ops.expand(numbers, scores.shape), "scores of labeled sequences")
    gathered = tape.new(labels.shape, "int64", "labels, gathered")
    context.forward_locals += [numbers, rows, gathered]
    return cross_entropy(float32_logits(context, rows), gathered)


def _no_flash(_: Config) -> str:
    return "DeBERTa attends with separate operations only: use eager"


def _unsupported(config: Config) -> Iterator[tuple[str, str]]:
    if config["num_attention_heads"] * config["head_dim"] != config["hidden_size"]:
        yield "head_dim", "the heads (attention_head_size) together are not as wide as hidden_size: leave it out"
    if config["pooler_hidden_size"] != config["hidden_size"]:
        yield (
            "pooler_hidden_size",
            "it differs from hidden_size, the width of what is pooled, and the model fails: leave it out",
        )
    if config["conv_kernel_size"]:
        yield "conv_kernel_size", "the convolution after the first layer is not modeled: use DeBERTa v3, without one"


DEBERTA = DecoderForward(
    layer=partial(encoder_layer, attend=attend),
    embeddings=_words,
    before_layers=_before_layers,
    retained="input",
    tables=no_tables,
    final_norm=identity,
    scores=_scores,
    default_loss=_loss,
    sdpa="eager",
    own_masks=True,
    keeps_hidden_states=True,
    couples_layers=lambda _: True,
    is_causal=False,
    refuses_flash=_no_flash,
    unsupported_fields=_unsupported,
    dropout_modules=("hidden_dropout_prob", "attention_probs_dropout_prob", "pooler_dropout", "cls_dropout"),
)

#: The models for token tasks, whose loss takes logits in the model's data type.
TOKENS = replace(DEBERTA, scores=None, casts_token_logits=False)
