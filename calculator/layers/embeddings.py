"""Embeddings of texts, and a loss that compares them.

An embedding is the mean of a text's hidden states over its mask. The loss is that of in-batch negatives: cross entropy
over the cosine similarities, times 20, of each anchor with every other text of the batch.

Source: sentence_transformers/models/Pooling.py; losses/MultipleNegativesRankingLoss.py; util/similarity.py, cos_sim.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.pooling import sum_of_tokens
from calculator.engine.reductions import normalize
from calculator.layers.loss import cross_entropy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


class LastHiddenState:
    """The output of a model without a head."""

    __slots__ = ()

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:  # noqa: ARG002
        """Return the hidden states in place of a loss."""
        return hidden_states, []


def mean_of_tokens(hidden_states: Tensor, attention_mask: Tensor) -> Tensor:
    """Return the mean of each sequence's hidden states: (batch, sequence, width) to (batch, width).

    The mask becomes a tensor of the hidden states' size, which the backward pass needs. Virtual tokens lengthen it.
    """
    tape, (rows, length, _) = hidden_states.tape, hidden_states.shape
    tape.scope = "mean of tokens: "
    if attention_mask.shape[1] != length:
        virtual = tape.new((rows, length - attention_mask.shape[1]), "int64", "mask of virtual tokens")
        attention_mask = ops.cat((virtual, attention_mask), (rows, length), "mask, lengthened")
        del virtual
    mask = tape.new(hidden_states.shape, hidden_states.dtype, "mask, expanded")
    masked = ops.mul(hidden_states, mask, "hidden states · mask")
    total = sum_of_tokens(masked)
    del masked
    tokens = sum_of_tokens(mask, "tokens")
    tokens = ops.shift(tokens, "tokens, clamped")
    return ops.divide(total, tokens, "embeddings")


def ranking_loss(context: Context, embeddings: Sequence[Tensor]) -> Tensor:
    """Return the loss of embeddings (batch, width): of anchors, of their positives, and of any negatives."""
    tape, (anchors, *others) = context.tape, embeddings
    tape.scope = "loss: "
    rows, width = anchors.shape
    count = named(len(others) * rows, "candidates")
    candidates = ops.cat(others, (count, width), "candidates")
    labels = tape.new((rows,), "int64", "labels")
    first, second = normalize(anchors), normalize(candidates)
    scores = products.bmm(first, ops.view(second, (width, count)), (rows, count), "similarities")
    del first, second
    scores = ops.scale(scores, "similarities · 20")
    return cross_entropy(scores, labels)
