"""The phases of a run that have no figures, while the others do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.run.answer import UnansweredPhase
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel
    from calculator.run.request import RunRequest

LOAD_OF_SECOND = "What sharding the reference model takes, which TRL prepares by itself, is not modeled."


def unanswered(request: RunRequest, prepared: PreparedModel) -> Iterator[UnansweredPhase]:
    """Yield the phases of the request that have no figures."""
    estimate = request.estimate
    sharding = estimate.device.sharding
    if sharding not in ("none", "ddp") and trainer_of(estimate.training).compared(prepared) == "model":
        yield UnansweredPhase(name="load", reason=LOAD_OF_SECOND)
