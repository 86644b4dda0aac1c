"""What encoders share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def no_tables(_context: Context, _hidden_states: Tensor) -> tuple[Tensor, ...]:
    """Return no position tensors for the layers."""
    return ()


def first_token(hidden_states: Tensor) -> Tensor:
    """Select each sequence's first token: (batch, sequence, hidden_size) to (batch, hidden_size)."""
    batch, _, width = hidden_states.shape
    return ops.narrow(hidden_states, (batch, width))
