"""Which modules a low-rank method adapts, by PEFT's rules."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from calculator.errors import refusal

if TYPE_CHECKING:
    from calculator.methods.settings import LowRank
    from calculator.model import Model
    from calculator.module import Module

#: What `target_modules=None` stands for, by model_type.
#: Source: peft 0.21, peft/utils/constants.py, TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.
DEFAULT_TARGETS: dict[str, tuple[str, ...]] = {
    "bart": ("q_proj", "v_proj"),
    "bert": ("query", "value"),
    "bloom": ("query_key_value",),
    "deberta-v2": ("query_proj", "value_proj"),
    "falcon": ("query_key_value",),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "gemma3_text": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "gpt_bigcode": ("c_attn",),
    "gpt_neo": ("q_proj", "v_proj"),
    "gpt_neox": ("query_key_value",),
    "gptj": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "mixtral": ("q_proj", "v_proj"),
    "mpt": ("Wqkv",),
    "opt": ("q_proj", "v_proj"),
    "phi": ("q_proj", "v_proj", "fc1", "fc2"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "stablelm": ("q_proj", "v_proj"),
    "t5": ("q", "v"),
    "xlm-roberta": ("query", "value"),
}


def target_names(method: LowRank, model: Model) -> tuple[str, ...]:
    """The names that a module's path is matched with; empty for `all-linear`.

    Raises:
        PlanError: where the family has no default.
    """
    if method.target_modules == "all-linear":
        return ()
    if method.target_modules is not None:
        return method.target_modules
    if model.model_type not in DEFAULT_TARGETS:
        way_out = 'name them, or use "all-linear"'
        raise refusal("method.target_modules", f"PEFT has no default for {model.model_type}: {way_out}", None)
    return DEFAULT_TARGETS[model.model_type]


def is_named(path: str, names: tuple[str, ...]) -> bool:
    """Whether a module's path is one of the names or ends in one (peft.tuners.tuners_utils)."""
    return any(path == name or path.endswith(f".{name}") for name in names)


def is_saved(path: str, method: LowRank) -> bool:
    """Whether a module is, or lies in, one of `modules_to_save`."""
    return any(re.match(rf"(^|.*\.){re.escape(name)}($|\..*)", path) for name in method.modules_to_save or ())


def is_target(path: str, module: Module, method: LowRank, model: Model) -> bool:
    """Whether a low-rank update goes beside this module."""
    if is_saved(path, method):
        return False
    if method.target_modules == "all-linear":
        return module.kind in ("linear", "conv1d") and path != model.head
    return is_named(path, target_names(method, model))
