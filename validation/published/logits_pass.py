"""One no-grad forward pass that computes the logits of every token, and no loss.

`generate` computes the logits of the last token only. A script that calls the model itself has all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.estimation.estimate import resident_state
from calculator.trainers.logits_only import LogitsOnly
from calculator.training_step.evaluation import evaluation_pass

if TYPE_CHECKING:
    from calculator.estimation.request import Request


def max_allocated(request: Request) -> int:
    """Return the most bytes of live tensors during the pass: the weights, and what is alive at its peak."""
    resident = resident_state(request)
    return (
        sum(tensor.bytes for tensor in resident.tensors) + evaluation_pass(resident.prepared, LogitsOnly()).moment.bytes
    )
