"""A plan that is exported: the request as its answer took it, the answer, and the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.estimate.compatibility import within_positions
from calculator.estimate.estimate import estimate, model_of
from calculator.families import forward_of

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """What an exported file is made from."""

    request: Request
    plan: Estimate
    model: Model

    @property
    def attention(self) -> str:
        """The implementation that runs: a family without SDPA runs eager where that is asked for."""
        asked = self.request.training.attention
        return forward_of(self.model).sdpa if asked == "sdpa" else asked


def planned(request: Request, answer: Estimate | None = None) -> Planned:
    """A request with its answer, which is found where it is not given.

    Raises:
        PlanError: where it has none, or no model that could be trained.
    """
    if request.model.parameters is not None:
        message = "a bare parameter count can't be trained: give a catalogue id, or a config"
        raise refusal("model.parameters", message, request.model.parameters)
    if request.accounting == "textbook":
        message = "a file that runs a plan tells the figures of the step that it takes: exact"
        raise refusal("accounting", message, request.accounting)
    plan, model = answer or estimate(request), model_of(request.model)
    return Planned(request=within_positions(request, model), plan=plan, model=model)
