"""Labelled tokens: those whose next token has a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.layers.context import Context


def labelled_tokens(context: Context) -> Dim:
    """Return N: `completion_tokens`, or all tokens of the completions, or all that have a next one in a sequence."""
    training = context.training
    if training.completion_tokens is not None:
        return named(training.completion_tokens, "completion_tokens")
    if training.flattened:
        return named(training.micro_batch_size * training.sequence_length - training.samples, "B · S - samples")
    predicted = training.sequence_length - (not context.method.virtual_tokens)
    if training.max_completion_length is not None:
        predicted = training.max_completion_length
    return named(training.micro_batch_size * context.prepared.sequences_per_row * predicted, "N")
