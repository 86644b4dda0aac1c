"""The phases of a run that have no figures, while the others have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.run.answer import UnansweredPhase
from calculator.trainers import TRAINERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.run.request import RunRequest

LOAD_UNDER_ZERO3 = (
    "What DeepSpeed allocates on a GPU while it partitions a model, with zero.Init or after from_pretrained, is not"
    " modelled."
)
EVALUATION_UNDER_ZERO3 = (
    "Which weights ZeRO-3 has gathered ahead in passes without a graph is not modelled. A training step with the same"
    " rows gathers as much, and keeps activations too."
)


def unanswered(request: RunRequest) -> Iterator[UnansweredPhase]:
    """Yield the phases of the request that have no figures."""
    own, run = request.estimate, request.run
    partitions = own.device.sharding == "zero3"
    if partitions:
        yield UnansweredPhase(name="load", reason=LOAD_UNDER_ZERO3)
    if not run.evaluates:
        return
    facts = TRAINERS[own.training.trainer].facts
    if facts.generates:
        reason = f"{facts.label} generates completions of the evaluation set and scores them, which is not modelled."
        yield UnansweredPhase(name="evaluation", reason=reason)
    elif partitions:
        yield UnansweredPhase(name="evaluation", reason=EVALUATION_UNDER_ZERO3)
