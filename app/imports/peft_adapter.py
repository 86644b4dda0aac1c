"""PEFT's adapter_config.json as a request.

Source: peft 0.21, tuners/lora/config.py, tuners/prefix_tuning/config.py, tuners/prompt_tuning/config.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.imports.reference import reference
from app.imports.without_effect import WITHOUT_EFFECT
from calculator.errors import refusal

if TYPE_CHECKING:
    from app.imports.imported import Imported
    from app.imports.keys import Keys

#: How `bnb` says 4 bits in a checkpoint's config.json. Source: transformers/utils/quantization_config.py.
QUANTIZED = "quantization_config"


def imported(keys: Keys, given: Any) -> Imported:
    """The request of an adapter; `given` is the model beside the file, if there is one."""
    model = reference(keys, "base_model_name_or_path", given)
    keys.forget(WITHOUT_EFFECT["peft"])
    kind = keys.take("peft_type")
    readers = {"LORA": _low_rank, "PREFIX_TUNING": _prefix, "PROMPT_TUNING": _prompt}
    if not isinstance(kind, str) or kind not in readers:
        raise refusal("content.peft_type", f"is not modelled: {', '.join(readers)} are", kind)
    method = readers[kind](keys)
    if method["name"] == "lora":
        method |= _quantization(keys, model)
    return keys.close("peft", {"model": model, "method": method})


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


def _quantization(keys: Keys, model: Any) -> dict[str, Any]:
    """QLoRA where the base's config says that it is in 4 bits."""
    config = model.get("config") if isinstance(model, dict) else None
    stored = config.get(QUANTIZED) if isinstance(config, dict) else None
    if not isinstance(stored, dict):
        return {}
    if not stored.get("load_in_4bit"):
        keys.miss(QUANTIZED, stored, "only 4 bits by bitsandbytes are modelled: weights in half precision are taken")
        return {}
    return {
        "name": "qlora",
        "quant_type": stored.get("bnb_4bit_quant_type", "fp4"),
        "double_quant": stored.get("bnb_4bit_use_double_quant", False),
    }


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
