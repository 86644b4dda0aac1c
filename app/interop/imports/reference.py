"""The model of a file, for the request and for the readers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator import catalogue
from calculator.common.errors import PlanError, refusal
from calculator.families import model_from_config

if TYPE_CHECKING:
    from app.interop.imports.keys import Keys
    from calculator.architecture.model import Model


def reference(keys: Keys, key: str, given: Any) -> Any:
    """Return the request's `model`: `given`, or the one that the file names under a key.

    Raises:
        PlanError: if there is neither.
    """
    named = keys.text(key)
    if given is not None:
        return given
    if named is None:
        raise refusal("model", f"the file has no {key}: give a catalogue id, or a config", None)
    try:
        return catalogue.model(named).id
    except PlanError as error:
        keys.miss(key, named, f"{error.problems[0].msg}")
        return named


def known(model: Any) -> Model | None:
    """Return the model of a request, or None if it is unknown."""
    try:
        if isinstance(model, str):
            return model_from_config(catalogue.model(model).config)
        return model_from_config(model["config"]) if isinstance(model, dict) and "config" in model else None
    except PlanError:
        return None
