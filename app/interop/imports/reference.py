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
    if named is None:
        raise refusal("model", f"{_missing(keys, key)}: give a catalogue id, or a config", None)
    try:
        return catalogue.model(named).id
    except PlanError as error:
        copied = _original(named)
        if copied is not None:
            other, how = _other_form(named, copied)
            keys.miss(key, named, f"is not in the catalogue: {copied}{how} is used, whose sizes should be the same")
            return other or copied
        keys.miss(key, named, f"{error.problems[0].msg}")
        return named


def _missing(keys: Keys, key: str) -> str:
    """Return why no model is read."""
    text = keys.script.unread.get(key)
    if text is not None and _OPTION.fullmatch(text):
        return f"the code reads {text} from its command line or a configuration"
    if text is not None:
        return f"the code does not state {text}"
    return "the code names no model" if keys.script.calls else f"the file has no {key}"


#: An attribute of parsed options.
_OPTION = re.compile(r"\w*(?:args|config|cfg)\.\w+")

#: Suffixes that copies of a model append to its name.
_SUFFIXES = re.compile(
    r"(?:-unsloth)?-bnb-4bit$|-instruct$|-it$|-chat$|-base$|-bf16$|-GPTQ(?:-Int[48])?$|-AWQ$", re.IGNORECASE
)

#: The quantization of a copy, by its name.
_QUANTIZED = re.compile(r"-(?P<method>GPTQ|AWQ)(?:-Int(?P<bits>[48]))?$", re.IGNORECASE)


def _other_form(named: str, original: str) -> tuple[dict[str, Any] | None, str]:
    """Return the config of a copy that differs from the original by more than its name, and how; None if it doesn't."""
    split, match = _separated(named, original), _QUANTIZED.search(named)
    if split is not None:
        return split, " with separate projections"
    if match is None:
        return None, ""
    config = catalogue.model(original).config
    bits = int(match["bits"] or 4)
    stored = {"quant_method": match["method"].lower(), "bits": bits, "group_size": 128, "desc_act": False}
    how = f" in {bits} bits by {match['method'].upper()}, with groups of 128 as usual,"
    return {"config": {**config, "quantization_config": stored}}, how


def _original(named: str) -> str | None:
    """Return the catalogue's model whose name, without its owner, a copy has; None if there is none.

    The name of a fine-tuned model often ends with that of the model.
    """
    name = named.rstrip("/").rsplit("/", 1)[-1].replace("___", ".")  # as ModelScope names its folders
    for old, new in _FINE_TUNED.items():
        name = name.replace(old, new) if name.startswith(old) else name
    for _ in range(4):
        for spelling in (name, name.removeprefix("Meta-")):
            if model_id := _catalogued(spelling):
                return model_id
        name = _SUFFIXES.sub("", name)
    parts = name.split("-")
    ends = ("-".join(parts[first:]) for first in range(1, len(parts) - 1))
    return next((model_id for end in ends if (model_id := _catalogued(end))), None)


#: The names of fine-tuned models that begin in another way than those of their originals.
_FINE_TUNED = {"bloomz-": "bloom-", "mt0-": "mt5-"}


def _catalogued(name: str) -> str | None:
    """Return the id of the catalogue's model of that name; None if there is none."""
    try:
        return catalogue.model(name).id
    except PlanError:
        return None


def _separated(named: str, original: str) -> dict[str, Any] | None:
    """Return the config of Unsloth's copy of a Phi-3 or Phi-4, whose projections are those of Llama or Mistral.

    Source: what notebooks of github.com/unslothai/notebooks print: Fast Llama patching of Phi-3.5-mini and Phi-4, Fast
    Mistral patching of Phi-3-medium, and 29,884,416 and 65,536,000 trainable parameters.
    """
    return separated(original) if named.startswith("unsloth/") else None


def separated(original: str) -> dict[str, Any] | None:
    """Return the config of a Phi-3 or Phi-4 with separate projections, as Llama or Mistral has them."""
    config = catalogue.model(original).config
    if config["model_type"] != "phi3":
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
