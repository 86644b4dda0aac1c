"""Exports: a training script or a tool's configuration that runs a request, with the estimate in a comment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.interop.exports import axolotl, llama_factory, peft_script, torchtune
from app.interop.exports.exported import Exported, NotExpressed
from app.interop.exports.planned import Planned, planned
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.request import Request

#: The function that writes each format.
FORMATS: dict[str, Callable[[Planned], Exported]] = {
    "peft": peft_script.exported,
    "axolotl": axolotl.exported,
    "llama-factory": llama_factory.exported,
    "torchtune": torchtune.exported,
}

__all__ = ["FORMATS", "Exported", "NotExpressed", "Planned", "export"]


def export(request: Request, format: str) -> Exported:  # noqa: A002  the API's word
    """Return a file that runs a request.

    Raises:
        PlanError: if the request has no estimate, or the format does not support its model or method.
    """
    if format not in FORMATS:
        raise refusal("format", f"must be one of {', '.join(FORMATS)}", format)
    return FORMATS[format](planned(request))
