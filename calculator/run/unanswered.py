"""The phases of a run that have no figures, while the others have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.run.answer import UnansweredPhase
from calculator.trainers import TRAINERS, trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel
    from calculator.run.request import RunRequest

LOAD_OF_SECOND = "What sharding the reference model takes, which TRL prepares by itself, is not modelled."


def unanswered(request: RunRequest, prepared: PreparedModel) -> Iterator[UnansweredPhase]:
    """Yield the phases of the request that have no figures."""
    own, run = request.estimate, request.run
    sharding = own.device.sharding
    if sharding not in ("none", "ddp") and trainer_of(own.training).compared(prepared) == "model":
        yield UnansweredPhase(name="load", reason=LOAD_OF_SECOND)
    if not run.evaluates:
        return
    facts = TRAINERS[own.training.trainer].facts
    if facts.generates:
        reason = f"{facts.label} generates completions of the evaluation set and scores them, which is not modelled."
        yield UnansweredPhase(name="evaluation", reason=reason)
