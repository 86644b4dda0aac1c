"""Imports: PEFT's adapter_config.json, and the YAML of axolotl and LLaMA-Factory, as requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports import axolotl, llama_factory, other_runs, peft_adapter
from app.interop.imports.imported import Imported, NotUnderstood
from app.interop.imports.keys import Keys
from app.interop.imports.text import mapping
from calculator.common.errors import refusal
from calculator.estimate.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: The function that reads each format.
FORMATS: dict[str, Callable[[Keys, Any], Imported]] = {
    "peft": peft_adapter.imported,
    "axolotl": axolotl.imported,
    "llama-factory": llama_factory.imported,
}

#: A key that only files of that format have.
MARKS = {"peft_type": "peft", "base_model": "axolotl", "model_name_or_path": "llama-factory"}

__all__ = ["FORMATS", "Imported", "NotUnderstood", "read"]


def read(content: Any, format: str | None = None, model: Any = None) -> Imported:  # noqa: A002  the API's word
    """Return the request of a file, given as text or as an object. Without a format, the keys decide.

    `model` replaces the model that the file names.

    Raises:
        PlanError: if the file cannot be read, names no model or a method that is not supported, or exceeds a limit.
    """
    given = mapping(content)
    name = format or _format(given)
    keys = Keys(given)
    other_runs.warn(keys, name)
    imported = FORMATS[name](keys, model)
    parse_request(imported.request)
    return imported


def _format(given: Mapping[str, Any]) -> str:
    for key, name in MARKS.items():
        if key in given:
            return name
    raise refusal(
        "format", f"none of {', '.join(MARKS)} is in the file: state which of {', '.join(FORMATS)} it is", None
    )
