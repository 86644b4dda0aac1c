"""The storage of an adapter's base model. Its config.json may state it; the adapter's own file never does.

Source: transformers/utils/quantization_config.py, BitsAndBytesConfig and its defaults.
"""

from __future__ import annotations

from typing import Any

from app.interop.imports.keys import Keys
from calculator.bases import BASES, config_json
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_model
from calculator.estimation.stated_base import stated as stated_of

#: The key of a config.json that describes quantization.
QUANTIZED = "quantization_config"

#: Keys that repeat others, or that are about outliers or the CPU.
WITHOUT_EFFECT = (
    "quant_method",
    "load_in_4bit",
    "load_in_8bit",
    "_load_in_4bit",
    "_load_in_8bit",
    "llm_int8_threshold",
    "llm_int8_has_fp16_weight",
    "llm_int8_enable_fp32_cpu_offload",
    "bnb_4bit_quant_storage",
)

#: Settings of 4 bits, which a base in 8 bits ignores.
OF_4_BITS = ("bnb_4bit_quant_type", "bnb_4bit_use_double_quant", "bnb_4bit_compute_dtype")

#: The module that is not quantized by default.
HEAD = ["lm_head"]

_USED = "16-bit weights are used"
_CHOICE = "; for 4 bits choose qlora"


def but_for_stated(method: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the method without the quantization_config that its config.json states, as transformers reads it."""
    try:
        config = config_json.read(stated_of(parse_model(model)))
    except PlanError:
        config = None
    return method if config is None else {key: method[key] for key in method if key != "quantization_config"}


def on_its_base(keys: Keys, method: dict[str, Any], model: Any) -> dict[str, Any]:
    """Return the method and training of the request for the base's storage. LoRA on a 4-bit base is QLoRA."""
    config = model.get("config") if isinstance(model, dict) else None
    stored = config.get(QUANTIZED) if isinstance(config, dict) else None
    low_rank = method["name"] == "lora"
    if stored is None:
        keys.miss(
            QUANTIZED,
            None,
            f"the file does not state how the base model is stored: {_USED}{_CHOICE if low_rank else ''}",
        )
    elif low_rank and config_json.read(stored) is not None:
        return {"method": method}  # the request's model states it
    elif not _is_loaded_in(stored, "load_in_4bit") and not _is_loaded_in(stored, "load_in_8bit"):
        keys.miss(QUANTIZED, stored, f"only 4 and 8 bits by bitsandbytes and {', '.join(BASES)} are modeled: {_USED}")
    elif not low_rank:
        keys.miss(QUANTIZED, stored, f"a base in 4 or 8 bits is modeled under LoRA only: {_USED}")
    elif _is_loaded_in(stored, "load_in_8bit"):
        return _lora_in_8_bits(keys, method, Keys(stored))
    else:
        return _quantized(keys, method, Keys(stored))
    return {"method": method}


def _is_loaded_in(stored: Any, flag: str) -> bool:
    return (
        isinstance(stored, dict) and stored.get(flag) is True and stored.get("quant_method") in (None, "bitsandbytes")
    )


def _lora_in_8_bits(keys: Keys, method: dict[str, Any], stored: Keys) -> dict[str, Any]:
    """Return LoRA over a base in 8 bits, whose computation the file does not state."""
    stored.forget((*WITHOUT_EFFECT, *OF_4_BITS))
    _check_kept(stored, "8 bits")
    for entry in stored.close("", {}).not_understood:
        keys.miss(f"{QUANTIZED}.{entry.key}", entry.value, entry.why)
    return {"method": {**method, "load_in_8bit": True}}


def _check_kept(stored: Keys, bits: str) -> None:
    kept = stored.names("llm_int8_skip_modules")
    if kept not in (None, HEAD):
        stored.miss("llm_int8_skip_modules", kept, f"every linear layer except the output head is assumed in {bits}")


def _quantized(keys: Keys, method: dict[str, Any], stored: Keys) -> dict[str, Any]:
    stored.forget(WITHOUT_EFFECT)
    method = {
        **method,
        "name": "qlora",
        "quant_type": stored.choice("bnb_4bit_quant_type", {name: name for name in ("nf4", "fp4")}, "fp4", "fp4"),
        "double_quant": stored.flag("bnb_4bit_use_double_quant"),
    }
    dtypes = {name: name for name in ("float32", "float16", "bfloat16")}
    dtype = stored.choice("bnb_4bit_compute_dtype", dtypes, "float32", "float32")
    _check_kept(stored, "4 bits")
    for entry in stored.close("", {}).not_understood:
        keys.miss(f"{QUANTIZED}.{entry.key}", entry.value, entry.why)
    return {"method": method, "training": {"dtype": dtype}}
