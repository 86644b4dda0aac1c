"""Modules that LoRA can't adapt: fused experts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.targeted.matching import is_named, way_out
from calculator.methods.targeted.refusals import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.methods.targeted.method import TargetedMethod

_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("gate", "w1", "w2", "w3")

#: Names that PEFT turns into whole parameters, because experts and routers are not linear layers in transformers 5.
#: Source: peft 0.21, peft/utils/transformers_weight_conversion.py, _MOE_TARGET_MODULE_MAPPING.
FUSED_EXPERTS: dict[str, tuple[str, ...]] = {
    "deepseek_v2": _EXPERTS,
    "deepseek_v3": _EXPERTS,
    "ernie4_5_moe": _EXPERTS,
    "glm4_moe": _EXPERTS,
    "glm4_moe_lite": _EXPERTS,
    "minimax_m2": _MIXTRAL,
    "mixtral": _MIXTRAL,
    "olmoe": _EXPERTS,
    "qwen3_moe": _EXPERTS,
    "qwen3_next": _EXPERTS,
    "solar_open": _EXPERTS,
}


def expert_problems(method: TargetedMethod, model: Model) -> Iterator[Problem]:
    """Fused experts, which PEFT adapts as whole parameters: not modelled; without names it finds no module at all."""
    fused = FUSED_EXPERTS.get(model.model_type, ())
    requested = method.target_modules
    if (
        not fused
        or (requested is None and not method.needs_modules)
        or (isinstance(requested, tuple) and not any(is_named(name, fused) for name in requested))
    ):
        return
    message = (
        f"PEFT finds no default in {model.model_type}, whose experts are fused"
        if requested is None
        else f"adapting the fused experts or the router of {model.model_type} is not modelled"
    )
    message = f"{message}: {way_out(method, model)}"
    yield Problem(loc="method.target_modules", msg=message, input=listed(requested))
