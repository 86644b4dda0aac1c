"""The request about a whole run: that of an estimate, and what the run does in addition to its training steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimation.request import parse_request
from calculator.inputs.run import RunSettings
from calculator.inputs.settings import parse

if TYPE_CHECKING:
    from calculator.estimation.request import Request

#: The trainer of a request that names none, since a run belongs to a Trainer.
TRAINER = "transformers"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRequest:
    """The run's training, and its other settings."""

    estimate: Request
    run: RunSettings = field(default_factory=RunSettings)


def parse_run(body: Any) -> RunRequest:
    """Parse a request from decoded JSON.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems: list[Problem] = []
    request = run = None
    try:
        request = parse_request(with_trainer(body), others=("run",))
    except PlanError as error:
        problems += error.problems
    try:
        run = parse(RunSettings, body.get("run", {}), "run")
    except PlanError as error:
        problems += error.problems
    if request is None or run is None:
        raise PlanError(*problems)
    return RunRequest(estimate=request, run=run)


def with_trainer(body: dict[str, Any]) -> dict[str, Any]:
    """Return the request with transformers' Trainer if none is named."""
    training = body.get("training", {})
    if isinstance(training, dict) and training.get("trainer") is None:
        return {**body, "training": {**training, "trainer": TRAINER}}
    return body
