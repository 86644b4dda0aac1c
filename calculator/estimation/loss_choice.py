"""The error for a loss that no trainer has: it lists the losses of the trainer that the request names."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError
from calculator.inputs.settings import parse
from calculator.inputs.training import Training
from calculator.trainers import TRAINERS

if TYPE_CHECKING:
    from calculator.common.errors import Problem

_LOSS = "training.loss_type"


def parse_settings(body: Any) -> Training:
    """Parse the training settings of a request.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    try:
        return parse(Training, body, "training")
    except PlanError as error:
        name = body.get("trainer") if isinstance(body, dict) else None
        if name is not None and not (isinstance(name, str) and name in TRAINERS):
            raise
        raise PlanError(*(_with_losses_of_trainer(problem, name) for problem in error.problems)) from error


def _with_losses_of_trainer(problem: Problem, name: Any) -> Problem:
    """Return a problem. If the loss is wrong, its message lists the losses of the trainer."""
    if problem.loc != _LOSS:
        return problem
    if name is None:
        return replace(problem, msg="the reference step has no such setting: set training.trainer, or leave it out")
    loop = TRAINERS[name]
    if not loop.losses:
        return replace(problem, msg=f"{loop.facts.label} has no loss_type: leave it out")
    listed = ", ".join(repr(loss) for loss in loop.losses)
    return replace(problem, msg=f"must be one of {listed} or null")
