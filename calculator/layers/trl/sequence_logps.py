"""Log-probabilities of whole sequences, from those of their tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def masked_labels(context: Context) -> Tensor:
    """Return the ids with -100 where a token does not belong to a completion: (sequences, length)."""
    shape = (context.batch, named(context.training.sequence_length, "S"))
    unlabeled = context.tape.new(shape, "bool", "tokens without a label")
    labels = context.tape.new(shape, "int64", "labels")
    del unlabeled
    return labels


def sums(context: Context, log_probs: Tensor) -> Tensor:
    """Return the sum of each sequence's log-probabilities, without those of virtual tokens.

    log_probs: (sequences, num_virtual_tokens + length - 1).
    """
    context.set_scope("loss: ")
    rows, length = log_probs.shape[0], named(context.training.sequence_length - 1, "S - 1")
    per_token = ops.slice_from_end(log_probs, (rows, length))
    return ops.sum_over(per_token, (rows,), "log-probabilities of sequences")


def halves(x: Tensor, rows: int) -> list[Tensor]:
    """Return views of the chosen and of the rejected sequences' values."""
    return ops.split(x, [(rows,), (rows,)])
