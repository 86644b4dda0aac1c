"""DeBERTa's disentangled attention, which scores content, and content against relative positions.

Source: transformers/models/deberta_v2/modeling_deberta_v2.py, DisentangledSelfAttention.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import indexing, products
from calculator.engine import operations as ops
from calculator.engine.in_place import add_

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.layer_modules import LayerModules


@dataclass(frozen=True, slots=True)
class Relative:
    """The inputs that the encoder passes to every layer: the mask of token pairs, their distances, and embeddings."""

    mask: Tensor
    distances: Tensor | None
    embeddings: Tensor | None


def attend(context: Context, modules: LayerModules, hidden_states: Tensor) -> Tensor:
    """Run attention, with a separate operation for each step. The scores stay alive until the module returns."""
    passed: Relative = context.passed
    query = _heads(context, modules, "query_proj", hidden_states)
    key = _heads(context, modules, "key_proj", hidden_states)
    value = _heads(context, modules, "value_proj", hidden_states)
    context.set_scope(f"{modules.prefix}attention.self: ")
    rows, length, _ = query.shape
    scores = products.bmm(query, ops.scale(key, "key / scale"), (rows, length, length), "scores")
    relative = _dropped_embeddings(context, passed)
    bias = _bias(context, modules, query, key, relative)
    context.set_scope(f"{modules.prefix}attention.self: ")
    if bias is not None:
        scores = ops.add(scores, bias, "scores + bias")
    batch = context.batch
    by_heads = (batch, context.config["num_attention_heads"], length, length)
    _allowed = context.tape.new(passed.mask.shape, "bool", "mask, as bool")
    masked = context.tape.new(passed.mask.shape, "bool", "what is masked")
    scores = indexing.masked_fill(ops.view(scores, by_heads), masked, "scores, masked")
    del masked
    probabilities = ops.softmax(scores)
    probabilities = ops.dropout(probabilities, context.attention_dropout, "probabilities, dropped")
    out = products.bmm(ops.view(probabilities, (rows, length, length)), value, value.shape, "attention output")
    if by_heads[1] > 1 and length > 1:
        out = ops.contiguous(out, "attention output, by positions")
    return ops.view(out, (batch, length, by_heads[1] * value.shape[2]))


def _heads(context: Context, modules: LayerModules, name: str, x: Tensor) -> Tensor:
    """Project, and copy the result so that heads are contiguous: (batch · heads, sequence, head_dim)."""
    projected = modules[f"attention.self.{name}"](x)
    context.set_scope(f"{modules.prefix}attention.self: ")
    batch, length, _ = projected.shape
    heads, width = context.config["num_attention_heads"], context.config["head_dim"]
    copied = ops.view(projected, (batch, heads, length, width))
    if heads > 1 and length > 1:
        copied = ops.contiguous(copied, f"{name}, by heads")
    return ops.view(copied, (batch * heads, length, width))


def _dropped_embeddings(context: Context, passed: Relative) -> Tensor | None:
    if passed.embeddings is None:
        return None
    probability = context.config["hidden_dropout_prob"]
    rows = ops.dropout(passed.embeddings, probability, "embeddings of distances, dropped")
    return ops.view(rows, (1, *rows.shape))


def _bias(
    context: Context, modules: LayerModules, query: Tensor, key: Tensor, embeddings: Tensor | None
) -> Tensor | None:
    """Return the scores of content against distances, for queries (c2p) and for keys (p2c).

    Indices and gathered scores stay alive until both are added.
    """
    passed: Relative = context.passed
    if embeddings is None or passed.distances is None:
        return None
    terms, shared = context.config["pos_att_type"], context.config["share_att_key"]
    names = ("query_proj", "key_proj") if shared else ("pos_query_proj", "pos_key_proj")
    positions: dict[str, Tensor] = {}
    order = (("p2c", names[0]), ("c2p", names[1])) if shared else (("c2p", names[1]), ("p2c", names[0]))
    for term, name in order:
        if shared or term in terms:
            positions[term] = _repeated(_heads(context, modules, name, embeddings), context.batch, name)
    context.set_scope(f"{modules.prefix}attention.self: ")
    score, alive = None, []
    for term, content in (("c2p", query), ("p2c", key)):
        if term in terms:
            index, scores = _gathered(content, positions[term], term)
            alive += [index, scores]
            score = _added(score, ops.scale(scores, f"{term}, scaled"))
    return score


def _repeated(heads: Tensor, batch: Dim, name: str) -> Tensor:
    """Repeat the heads of one sequence for every sequence of the batch."""
    shape = (batch * heads.shape[0], *heads.shape[1:])
    return ops.repeat(ops.view(heads, (1, *heads.shape)), batch, f"{name}, repeated", shape)


def _gathered(content: Tensor, positions: Tensor, term: str) -> tuple[Tensor, Tensor]:
    """Multiply content by every distance's embedding. Return the indices of the token pairs and the gathered scores."""
    rows, length, _ = content.shape
    tape, shape = content.tape, (1, 1, length, length)
    number = tape.new(shape, "int64", "distances, negated") if term == "p2c" else None
    number = tape.new(shape, "int64", "distances, shifted")
    index = tape.new(shape, "int64", "distances, clamped")
    del number
    scores = products.bmm(content, positions, (rows, length, positions.shape[1]), term)
    return index, indexing.gather(scores, ops.expand(index, (rows, length, length)), f"{term}, gathered")


def _added(score: Tensor | None, term: Tensor) -> Tensor:
    """Add in place to the sum of terms. The first term starts it as a new tensor."""
    return ops.shift(term, "bias of positions") if score is None else add_(score, term)
