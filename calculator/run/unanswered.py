"""The phases of a run that have no figures, while the others have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.run.answer import UnansweredPhase
from calculator.sharding.precision import is_built_partitioned
from calculator.trainers import TRAINERS, trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.methods.prepared_model import PreparedModel
    from calculator.run.request import RunRequest

LOAD_UNDER_ZERO_INIT = (
    "What is on a GPU while transformers builds and fills a model under deepspeed.zero.Init is not modelled. Without it"
    " (training.deepspeed.zero3_init_flag false), each GPU has the whole model, which needs more."
)
LOAD_OF_SECOND = "What sharding the reference model takes, which TRL prepares by itself, is not modelled."


def unanswered(request: RunRequest, prepared: PreparedModel) -> Iterator[UnansweredPhase]:
    """Yield the phases of the request that have no figures."""
    own, run = request.estimate, request.run
    sharding = own.device.sharding
    if is_built_partitioned(own.training, own.device, own.method):
        yield UnansweredPhase(name="load", reason=LOAD_UNDER_ZERO_INIT)
    elif sharding not in ("none", "ddp") and trainer_of(own.training).compared(prepared) == "model":
        yield UnansweredPhase(name="load", reason=LOAD_OF_SECOND)
    if not run.evaluates:
        return
    facts = TRAINERS[own.training.trainer].facts
    if facts.generates:
        reason = f"{facts.label} generates completions of the evaluation set and scores them, which is not modelled."
        yield UnansweredPhase(name="evaluation", reason=reason)
