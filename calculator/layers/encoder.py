"""Functions that encoders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.pooling import sum_of_tokens
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.layers.context import Context


def no_tables(_context: Context, _hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return no position tensors for the layers."""
    return ()


def first_token(hidden_states: Tensor) -> Tensor:
    """Select each sequence's first token: (batch, sequence, hidden_size) to (batch, hidden_size)."""
    batch, _, width = hidden_states.shape
    return ops.narrow(hidden_states, (batch, width))


def mean_of_tokens(context: Context, hidden_states: Tensor) -> Tensor:
    """Return the mean over each sequence's tokens that are not padding: (batch, hidden_size).

    Without padding, the model creates a mask of ones.
    """
    tape, (batch, length, _) = context.tape, hidden_states.shape
    context.set_scope("")
    if context.training.padding:
        mask = Tensor(tape, None, (batch, length, 1), "int64", None)
    else:
        mask = tape.new((batch, length, 1), "bool", "mask of ones")
    masked = ops.mul(hidden_states, mask, "hidden states · mask")
    summed = sum_of_tokens(masked)
    del masked
    return ops.divide(summed, tape.new((batch, 1), "int64", "tokens"), "mean of tokens")
