"""Which modules LoRA adapts by default, and which it can't adapt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.targeted.matching import is_named, way_out
from calculator.methods.targeted.refusals import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.methods.targeted.method import TargetedMethod

#: The modules that `target_modules=None` adapts, by model_type.
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

_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj")

#: Names that PEFT turns into whole parameters, because experts and routers are not linear layers in transformers 5.
#: Source: peft 0.21, peft/utils/transformers_weight_conversion.py, _MOE_TARGET_MODULE_MAPPING.
FUSED_EXPERTS: dict[str, tuple[str, ...]] = {
    "deepseek_v2": _EXPERTS,
    "deepseek_v3": _EXPERTS,
    "glm4_moe": _EXPERTS,
    "glm4_moe_lite": _EXPERTS,
    "mixtral": ("gate", "w1", "w2", "w3"),
    "olmoe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "solar_open": _EXPERTS,
}


def expert_problems(method: TargetedMethod, model: Model) -> Iterator[Problem]:
    """Fused experts, which PEFT adapts as whole parameters: not modelled; without names it finds no module at all."""
    fused = FUSED_EXPERTS.get(model.model_type, ())
    requested = method.target_modules
    if not fused or (isinstance(requested, tuple) and not any(is_named(name, fused) for name in requested)):
        return
    message = (
        f"PEFT finds no default in {model.model_type}, whose experts are fused"
        if requested is None
        else f"adapting the fused experts or the router of {model.model_type} is not modelled"
    )
    message = f"{message}: {way_out(method, model)}"
    yield Problem(loc="method.target_modules", msg=message, input=listed(requested))
