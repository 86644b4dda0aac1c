"""A command that runs PEFT's examples/sft/train.py, as the keys of TRL's configuration, whose SFTTrainer it runs.

Source: peft at 5d602fd, examples/sft/train.py and utils.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from calculator.common.errors import refusal

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The options that only this script has.
_MARKS = ("use_peft_lora", "use_4bit_quantization", "use_8bit_quantization", "use_flash_attn")

#: The names of options in TRL's configuration.
_NAMES = {
    "use_peft_lora": "use_peft",
    "use_4bit_quantization": "load_in_4bit",
    "use_8bit_quantization": "load_in_8bit",
    "use_nested_quant": "use_bnb_nested_quant",
}

#: The script's defaults that differ from TRL's.
_DEFAULTS = {
    "lora_r": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.1,
    "lora_target_modules": "q_proj,k_proj,v_proj,o_proj,down_proj,up_proj,gate_proj",
}

#: Options that do not change the memory of a step.
_WITHOUT_EFFECT = ("add_special_tokens", "append_concat_token", "splits")

_FLOATS = ("bfloat16", "float16", "float32")


def is_of_peft(options: Mapping[str, Any]) -> bool:
    """Return whether options are those of PEFT's script."""
    return any(name in options for name in _MARKS)


def keys_of_peft(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options as keys of TRL's configuration.

    Raises:
        PlanError: if the script loads the model with Unsloth.
    """
    left = {name: value for name, value in options.items() if name not in _WITHOUT_EFFECT}
    if left.pop("use_unsloth", False):
        message = "loads the model with Unsloth in PEFT's train.py: paste a script of Unsloth, or leave use_unsloth out"
        raise refusal("content", message, "use_unsloth")
    keys = {**_DEFAULTS, **{_NAMES.get(name, name): value for name, value in left.items()}}
    storage = keys.pop("bnb_4bit_quant_storage_dtype", "uint8")
    keys["dtype"] = storage if storage in _FLOATS else "float32"
    if storage != "uint8" and keys.get("load_in_4bit"):
        keys["bnb_4bit_quant_storage"] = storage
    keys["gradient_checkpointing_kwargs"] = {"use_reentrant": bool(keys.pop("use_reentrant", False))}
    if keys.get("bnb_4bit_compute_dtype") == "bfloat16" and keys.get("bf16", True) is True:
        del keys["bnb_4bit_compute_dtype"]  # autocast gives 4-bit layers inputs of that dtype in any case
    if keys.pop("use_flash_attn", False):
        keys["attn_implementation"] = "flash_attention_2"
    if keys.get("chat_template_format") == "none":
        del keys["chat_template_format"]
    return keys
