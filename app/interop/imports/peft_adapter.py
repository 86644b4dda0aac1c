"""PEFT's adapter_config.json as a request.

Source: peft 0.21, tuners/{lora,prefix_tuning,prompt_tuning,ia3,ln_tuning}/config.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.interop.imports.base_storage import on_its_base
from app.interop.imports.reference import reference
from app.interop.imports.without_effect import WITHOUT_EFFECT
from calculator.common.errors import refusal
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable

    from app.interop.imports.imported import Imported
    from app.interop.imports.keys import Keys
    from calculator.common.names import MethodName


def imported(keys: Keys, given: Any) -> Imported:
    """Return the request of an adapter; `given` replaces the model that the file names."""
    model = reference(keys, "base_model_name_or_path", given)
    keys.forget(WITHOUT_EFFECT["peft"])
    kind = keys.take("peft_type")
    readers = {METHODS[name].facts.peft_type: reader for name, reader in READERS.items() if reader is not None}
    if not isinstance(kind, str) or kind not in readers:
        raise refusal("content.peft_type", f"is not modelled: {', '.join(map(str, readers))} are", kind)
    return keys.close("peft", {"model": model, **on_its_base(keys, readers[kind](keys), model)})


def _low_rank(keys: Keys) -> dict[str, Any]:
    return {
        "name": "lora",
        "r": keys.integer("r", 8),
        "lora_alpha": keys.number("lora_alpha", 8),
        "lora_dropout": keys.number("lora_dropout", 0.0),
        "target_modules": _targets(keys),
        "use_rslora": keys.flag("use_rslora"),
        "use_dora": keys.flag("use_dora"),
        "bias": keys.take("bias", "none"),
        "modules_to_save": keys.names("modules_to_save"),
    }


def _targets(keys: Keys) -> Any:
    """Return a list of names, or all-linear. PEFT reads other text as a pattern."""
    targets = keys.left.get("target_modules")
    if not isinstance(targets, str):
        return keys.names("target_modules")
    del keys.left["target_modules"]
    if targets == "all-linear":
        return targets
    keys.miss("target_modules", targets, "patterns are not read: PEFT's default for the family is used")
    return None


def _prefix(keys: Keys) -> dict[str, Any]:
    width = keys.take("encoder_hidden_size")
    method = {
        "name": "prefix",
        "num_virtual_tokens": keys.integer("num_virtual_tokens", 20),
        "prefix_projection": keys.flag("prefix_projection"),
    }
    if method["prefix_projection"] and width is not None:
        keys.miss(
            "encoder_hidden_size", width, "is not modelled: the width of the keys and values, PEFT's default, is used"
        )
    return method


def _prompt(keys: Keys) -> dict[str, Any]:
    return {"name": "prompt", "num_virtual_tokens": keys.integer("num_virtual_tokens", 20)}


def _feedforward(keys: Keys) -> list[str] | None:
    """Return a list of names. PEFT reads text as a pattern, and an empty list as no modules."""
    value = keys.left.get("feedforward_modules")
    if isinstance(value, str) or value == []:
        del keys.left["feedforward_modules"]
        keys.miss("feedforward_modules", value, "only names are modelled: PEFT's default for the family is used")
        return None
    return keys.names("feedforward_modules")


def _ia3(keys: Keys) -> dict[str, Any]:
    return {
        "name": "ia3",
        "target_modules": _targets(keys),
        "feedforward_modules": _feedforward(keys),
        "modules_to_save": keys.names("modules_to_save"),
        "init_ia3_weights": keys.flag("init_ia3_weights", default=True),
    }


def _ln_tuning(keys: Keys) -> dict[str, Any]:
    return {
        "name": "ln_tuning",
        "target_modules": _targets(keys),
        "modules_to_save": keys.names("modules_to_save"),
    }


#: The function that reads each method's settings from an adapter_config.json; None if PEFT has no such file. QLoRA's
#: file is LoRA's: the base model's config.json states that it is stored in 4 bits.
READERS: dict[MethodName, Callable[[Keys], dict[str, Any]] | None] = {
    "full": None,
    "lora": _low_rank,
    "qlora": None,
    "adapter": None,
    "prefix": _prefix,
    "prompt": _prompt,
    "ia3": _ia3,
    "ln_tuning": _ln_tuning,
}
