"""Names of experts in `target_modules`. PEFT turns them into `target_parameters` if transformers fuses experts.

Source: peft 0.21, peft/utils/transformers_weight_conversion.py, _convert_peft_config_moe.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol

from calculator.common.errors import Problem
from calculator.methods.targeted.matching import is_named, way_out
from calculator.methods.targeted.refusals import listed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.inputs.by_name import DecimalsByName, WholeNumbersByName
    from calculator.methods.targeted.method import TargetedMethod

#: The names of the router, of both halves of gate_up_proj, and of down_proj.
_EXPERTS = ("gate", "gate_proj", "up_proj", "down_proj")
_MIXTRAL = ("gate", "w1", "w3", "w2")

#: The fused weights, and the pattern of the rank and alpha of the first one, which apply to both halves.
_ROUTER, _GATE_UP, _DOWN, _PATTERN = "gate.weight", "gate_up_proj", "down_proj", r".*\.gate_up_proj"

#: Names that PEFT turns into whole parameters, because experts and routers are not linear layers in transformers 5.
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


#: The families whose routers are modeled with an update.
ROUTED = ("deepseek_v3", "mixtral", "qwen3_moe")


class Named(Protocol):
    """The settings of LoRA that name modules and their ranks."""

    @property
    def target_modules(self) -> Literal["all-linear"] | tuple[str, ...] | None:
        """The ends of the names of modules."""

    @property
    def target_parameters(self) -> tuple[str, ...] | None:
        """The ends of the names of parameters."""

    @property
    def quantizes_base(self) -> bool:
        """Whether linear layers of the base are quantized."""

    @property
    def r(self) -> int:
        """The rank."""

    @property
    def lora_alpha(self) -> float:
        """The numerator of the update's scale."""

    @property
    def rank_pattern(self) -> WholeNumbersByName:
        """The ranks of some modules."""

    @property
    def alpha_pattern(self) -> DecimalsByName:
        """The alphas of some modules."""


def converted(method: Named, model: Model) -> dict[str, Any]:
    """Return the settings that PEFT changes if `target_modules` names fused experts.

    The result is empty if they do not, or if the conversion is refused. The rank and alpha of a weight that fuses two
    weights are doubled.
    """
    fused, requested = FUSED_EXPERTS.get(model.model_type), method.target_modules
    if fused is None or requested is None or method.quantizes_base:
        return {}
    if requested == "all-linear":
        linear = (
            path.rpartition(".")[2] for path, module in model.paths if module.kind == "linear" and path != model.head
        )
        requested = tuple(dict.fromkeys((*linear, *fused)))
    router, gate, up, down = (_named(requested, name) for name in fused)
    if bool(gate) != bool(up) or not (router or gate or down) or (router and model.model_type not in ROUTED):
        return {}
    parameters = [*(method.target_parameters or ())]
    parameters += [name for name, is_present in ((_ROUTER, router), (_GATE_UP, gate), (_DOWN, down)) if is_present]
    changes: dict[str, Any] = {
        "target_modules": tuple(name for name in requested if name not in {*router, *gate, *up, *down}) or None,
        "target_parameters": tuple(dict.fromkeys(parameters)),
    }
    if gate:
        changes["rank_pattern"] = type(method.rank_pattern)({**method.rank_pattern, _PATTERN: 2 * method.r})
        alpha = 2 * method.lora_alpha
        changes["alpha_pattern"] = type(method.alpha_pattern)({**method.alpha_pattern, _PATTERN: alpha})
    return changes


def _named(requested: tuple[str, ...], name: str) -> tuple[str, ...]:
    """Return the requested names that PEFT matches with a module's name."""
    return tuple(target for target in requested if target == name or target.endswith(f".{name}"))


def expert_problems(method: TargetedMethod, model: Model) -> Iterator[Problem]:
    """Yield names of experts that are not converted, and targets without names, in which PEFT finds no module."""
    fused = FUSED_EXPERTS.get(model.model_type, ())
    requested = method.target_modules
    if (
        not fused
        or (requested is None and not method.needs_modules)
        or (isinstance(requested, tuple) and not any(is_named(name, fused) for name in requested))
    ):
        return
    message = f"{_no_targets_reason(method, model, fused)}: {way_out(method, model)}"
    yield Problem(loc="method.target_modules", msg=message, input=listed(requested))


def _no_targets_reason(method: TargetedMethod, model: Model, fused: tuple[str, ...]) -> str:
    requested, (_, gate, up, _) = method.target_modules, fused
    if requested is None:
        return f"PEFT finds no default in {model.model_type}, whose experts are fused"
    if isinstance(requested, tuple) and bool(_named(requested, gate)) != bool(_named(requested, up)):
        return f"PEFT adapts {gate} and {up} of {model.model_type} together, whose experts are fused"
    if method.quantizes_base:
        return f"adapting the fused experts of {model.model_type} over a quantized base is not modeled"
    return f"adapting the router of {model.model_type} is not modeled"
