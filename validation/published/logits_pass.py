"""One forward pass without a graph that computes the logits of every token, and no loss.

`generate` computes the logits of the last token only. A script that calls the model itself has all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.estimate import resident_state
from calculator.trainers.reference.loop import Reference
from calculator.training_step.evaluation import evaluation_pass

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.estimation.request import Request
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Passes


class _LogitsOnly(Reference):
    """A call of the model without labels, whose output is kept."""

    __slots__ = ()

    def head(self, context: Context) -> LossHead:
        return _logits

    def loss(self, context: Context, forward: Passes) -> Tensor:
        return forward()[0]


def _logits(context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return the logits of every token in place of a loss."""
    return context.bind(context.model.output)(hidden_states), []


def max_allocated(request: Request) -> int:
    """The most bytes of live tensors during the pass: the weights, and what is alive at its peak."""
    resident = resident_state(request)
    return (
        sum(tensor.bytes for tensor in resident.tensors)
        + evaluation_pass(resident.prepared, _LogitsOnly()).moment.bytes
    )
