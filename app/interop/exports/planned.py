"""The input of an exported file: the request, its estimate, and the model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.positions import within_positions
from calculator.estimation.sample_lengths import with_longest_batch
from calculator.families import forward_of
from calculator.inputs.images import Images

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """The input of an exported file."""

    request: Request
    plan: Estimate
    model: Model

    @property
    def attention(self) -> str:
        """The attention implementation that runs; a family without SDPA falls back to eager."""
        requested = self.request.training.attention
        return forward_of(self.model).sdpa if requested == "sdpa" else requested


def check_language_model(request: Request, tool: str) -> None:
    """Refuse a file of a tool that has no other tasks, or that is not written for them or for images."""
    if request.task != "causal_lm":
        message = f"{tool} files are written for causal language models: use peft, or leave task out"
        raise refusal("task", message, request.task)
    if request.training.has_images:
        message = f"{tool} files are written for text only: use peft with a trainer, or leave images out"
        raise refusal("training.images", message, asdict(request.training.images or Images()))


def planned(request: Request, answer: Estimate | None = None) -> Planned:
    """Return a request with its estimate, which is computed if it is not given.

    Raises:
        PlanError: if the request has no estimate, or no model that can be trained.
    """
    if request.model.parameters is not None:
        message = "a bare parameter count can't be trained: give a catalogue id, or a config"
        raise refusal("model.parameters", message, request.model.parameters)
    if request.accounting == "textbook":
        message = "an exported file states exact figures: use exact"
        raise refusal("accounting", message, request.accounting)
    plan, model = answer or estimate(request), model_of(request.model)
    return Planned(request=within_positions(with_longest_batch(request), model), plan=plan, model=model)
