"""Bytes allocated between steps, instead of at the peak of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.estimate import resident_state

if TYPE_CHECKING:
    from calculator.estimation.request import Request


def between_steps(request: Request) -> int:
    """Return bytes of the weights, the added parameters and the optimizer states; the gradients are freed."""
    resident = resident_state(request)
    return sum(tensor.bytes for tensor in (*resident.tensors, *resident.optimizer_states))
