"""The exported files that the estimate page offers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.interop.exports import FORMATS, Exported
from app.interop.exports.planned import planned
from calculator.common.errors import PlanError

if TYPE_CHECKING:
    from app.interop.exports import Planned
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

#: Labels of the formats.
LABELS = {
    "peft": "transformers and PEFT",
    "axolotl": "axolotl",
    "llama-factory": "LLaMA-Factory",
    "torchtune": "torchtune",
}

#: Formats that are offered only for requests with the trainer of the same name.
OF_TRAINER = frozenset({"torchtune"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A file in one format, or the reason why there is none."""

    format: str
    label: str
    file: Exported | None = None
    refusal: str = ""


def downloads(request: Request, answer: Estimate) -> tuple[Download, ...]:
    """Return a file in every format. Empty if no file can run the request."""
    try:
        plan = planned(request, answer)
    except PlanError:
        return ()
    return tuple(
        _download(name, plan) for name in FORMATS if name not in OF_TRAINER or name == request.training.trainer
    )


def _download(name: str, plan: Planned) -> Download:
    try:
        return Download(format=name, label=LABELS[name], file=FORMATS[name](plan))
    except PlanError as error:
        return Download(format=name, label=LABELS[name], refusal=error.problems[0].msg)
