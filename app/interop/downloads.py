"""A plan of the page as files that run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.interop.exports import FORMATS, Exported
from app.interop.exports.planned import planned
from calculator.common.errors import PlanError

if TYPE_CHECKING:
    from app.interop.exports import Planned
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request

#: What each format is called.
LABELS = {"peft": "transformers and PEFT", "axolotl": "axolotl", "llama-factory": "LLaMA-Factory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A format of a plan: its file, or why there is none."""

    format: str
    label: str
    file: Exported | None = None
    refusal: str = ""


def downloads(request: Request, answer: Estimate) -> tuple[Download, ...]:
    """Every format of an answered plan; none where no file can tell its figures."""
    try:
        plan = planned(request, answer)
    except PlanError:
        return ()
    return tuple(_download(name, plan) for name in FORMATS)


def _download(name: str, plan: Planned) -> Download:
    try:
        return Download(format=name, label=LABELS[name], file=FORMATS[name](plan))
    except PlanError as error:
        return Download(format=name, label=LABELS[name], refusal=error.problems[0].msg)
