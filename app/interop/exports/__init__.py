"""A plan as what runs it: a training script, or the configuration of a training tool, with the estimate in its head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.interop.exports import axolotl, llama_factory, peft_script
from app.interop.exports.exported import Exported, NotExpressed
from app.interop.exports.planned import Planned, planned
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimate.request import Request

#: What writes each format.
FORMATS: dict[str, Callable[[Planned], Exported]] = {
    "peft": peft_script.exported,
    "axolotl": axolotl.exported,
    "llama-factory": llama_factory.exported,
}

__all__ = ["FORMATS", "Exported", "NotExpressed", "Planned", "export"]


def export(request: Request, format: str) -> Exported:  # noqa: A002  the API's word
    """The file that runs a request's plan.

    Raises:
        PlanError: where the plan has no answer, or the format can't take its model or method.
    """
    if format not in FORMATS:
        raise refusal("format", f"must be one of {', '.join(FORMATS)}", format)
    return FORMATS[format](planned(request))
