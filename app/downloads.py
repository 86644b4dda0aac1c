"""A plan of the page as files that run it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from app.exports import FORMATS, Exported
from app.exports.planned import planned
from calculator.errors import PlanError
from calculator.request import parse_request

if TYPE_CHECKING:
    from app.exports import Planned

#: What each format is called.
LABELS = {"peft": "transformers and PEFT", "axolotl": "axolotl", "llama-factory": "LLaMA-Factory"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Download:
    """A format of a plan: its file, or why there is none."""

    format: str
    label: str
    file: Exported | None = None
    refusal: str = ""


def downloads(body: Any) -> tuple[Download, ...]:
    """Every format of a plan that has an answer; none where no file can tell its figures."""
    try:
        told = planned(parse_request(body))
    except PlanError:
        return ()
    return tuple(_download(name, told) for name in FORMATS)


def _download(name: str, told: Planned) -> Download:
    try:
        return Download(format=name, label=LABELS[name], file=FORMATS[name](told))
    except PlanError as error:
        return Download(format=name, label=LABELS[name], refusal=error.problems[0].msg)
