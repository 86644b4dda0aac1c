"""The model of a file, for the request and for the readers."""

from __future__ import annotations

import re
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
    if named is None and key in keys.script.unread:
        message = f"the code does not state {keys.script.unread[key]}: give a catalogue id, or a config"
        raise refusal("model", message, None)
    if named is None:
        raise refusal("model", f"the file has no {key}: give a catalogue id, or a config", None)
    try:
        return catalogue.model(named).id
    except PlanError as error:
        copied = _original(named)
        if copied is not None:
            separated = _separated(named, copied)
            how = ", of the same name," if separated is None else " with separate projections"
            keys.miss(key, named, f"is not in the catalogue: {copied}{how} is used")
            return separated or copied
        keys.miss(key, named, f"{error.problems[0].msg}")
        return named


#: Suffixes that copies of a model append to its name.
_SUFFIXES = re.compile(r"(?:-unsloth)?-bnb-4bit$|-instruct$|-it$|-chat$|-base$", re.IGNORECASE)


def _original(named: str) -> str | None:
    """Return the catalogue's model whose name, without its owner, a copy has; None if there is none."""
    name = named.rstrip("/").rsplit("/", 1)[-1].replace("___", ".")  # as ModelScope names its folders
    for _ in range(3):
        for spelling in (name, name.removeprefix("Meta-")):
            try:
                return catalogue.model(spelling).id
            except PlanError:
                continue
        name = _SUFFIXES.sub("", name)
    return None


def _separated(named: str, original: str) -> dict[str, Any] | None:
    """Return the config of Unsloth's copy of a Phi-3 or Phi-4, whose projections are those of Llama or Mistral.

    Source: what notebooks of github.com/unslothai/notebooks print: Fast Llama patching of Phi-3.5-mini and Phi-4, Fast
    Mistral patching of Phi-3-medium, and 29,884,416 and 65,536,000 trainable parameters.
    """
    config = catalogue.model(original).config
    if not named.startswith("unsloth/") or config["model_type"] != "phi3":
        return None
    window = config.get("sliding_window") or config["max_position_embeddings"]
    is_windowed = window < config["max_position_embeddings"]
    return {"config": {**config, "model_type": "mistral" if is_windowed else "llama"}}


def model_or_none(model: Any) -> Model | None:
    """Return the model of a request, or None if it is unknown."""
    try:
        if isinstance(model, str):
            return model_from_config(catalogue.model(model).config)
        return model_from_config(model["config"]) if isinstance(model, dict) and "config" in model else None
    except PlanError:
        return None
