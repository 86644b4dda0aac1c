"""PEFT's adapter_config.json as a request.

Source: peft 0.21, tuners/lora/config.py, tuners/prefix_tuning/config.py, tuners/prompt_tuning/config.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports.base_storage import on_its_base
from app.interop.imports.reference import reference
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.errors import refusal

if TYPE_CHECKING:
    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys


def imported(keys: Keys, given: Any) -> Imported:
    """The request of an adapter; `given` is the model beside the file, if there is one."""
    model = reference(keys, "base_model_name_or_path", given)
    keys.forget(WITHOUT_EFFECT["peft"])
    kind = keys.take("peft_type")
    readers = {"LORA": _low_rank, "PREFIX_TUNING": _prefix, "PROMPT_TUNING": _prompt}
    if not isinstance(kind, str) or kind not in readers:
        raise refusal("content.peft_type", f"is not modelled: {', '.join(readers)} are", kind)
    return keys.close("peft", {"model": model, **on_its_base(keys, readers[kind](keys), model)})


def _low_rank(keys: Keys) -> dict[str, Any]:
    return {
        "name": "lora",
        "r": keys.whole("r", 8),
        "lora_alpha": keys.number("lora_alpha", 8),
        "lora_dropout": keys.number("lora_dropout", 0.0),
        "target_modules": _targets(keys),
        "use_rslora": keys.flag("use_rslora"),
        "use_dora": keys.flag("use_dora"),
        "bias": keys.take("bias", "none"),
        "modules_to_save": keys.names("modules_to_save"),
    }


def _targets(keys: Keys) -> Any:
    """A list of names, or all-linear; other text is a pattern to PEFT."""
    told = keys.left.get("target_modules")
    if not isinstance(told, str):
        return keys.names("target_modules")
    del keys.left["target_modules"]
    if told == "all-linear":
        return told
    keys.miss("target_modules", told, "a pattern is not read: PEFT's default for the family is taken")
    return None


def _prefix(keys: Keys) -> dict[str, Any]:
    width = keys.take("encoder_hidden_size")
    told = {
        "name": "prefix",
        "num_virtual_tokens": keys.whole("num_virtual_tokens", 20),
        "prefix_projection": keys.flag("prefix_projection"),
    }
    if told["prefix_projection"] and width is not None:
        keys.miss("encoder_hidden_size", width, "is taken to be the keys' and values' width, as where it is left out")
    return told


def _prompt(keys: Keys) -> dict[str, Any]:
    return {"name": "prompt", "num_virtual_tokens": keys.whole("num_virtual_tokens", 20)}
