"""Quantized bases of LoRA: what can't be trained over them, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem, refusal
from calculator.methods.targeted.modules_to_save import is_saved
from calculator.resident.quantization import converted

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.bases.base import Base
    from calculator.inputs.training import Training
    from calculator.methods.low_rank.method import LowRank

    Converts = Callable[[str, Module, Model], bool]


def check(method: LowRank, base: Base, model: Model, training: Training) -> None:
    """Refuse what a quantized base refuses.

    Raises:
        PlanError: with each reason.
    """
    check_saved(method, model, base.in_bits, base.converts)
    problems = list(base.problems(method, model, training))
    if method.use_dora and not base.has_dora:
        message = f"DoRA over a base in {base.label} is not modeled, or PEFT has none: use false"
        problems.append(Problem(loc="method.use_dora", msg=message, input=True))
    if method.target_modules == "all-linear" and not base.is_linear:
        names = ", ".join(base.names(model))
        message = f"PEFT's all-linear finds no layers of {base.label}, which are no torch.nn.Linear: list {names}"
        problems.append(Problem(loc="method.target_modules", msg=message, input="all-linear"))
    if method.bias == "lora_only" and base.keeps_biases_as_buffers and _adapts_biases(method, base, model):
        message = (
            f"layers of {base.label} keep biases as buffers: PEFT gives them gradients that no optimizer uses: use none"
        )
        problems.append(Problem(loc="method.bias", msg=message, input="lora_only"))
    if problems:
        raise PlanError(*problems)


def _adapts_biases(method: LowRank, base: Base, model: Model) -> bool:
    return any(
        module.bias is not None and base.converts(path, module, model) and method.is_target(path, module, model)
        for path, module in model.paths
    )


def check_saved(method: LowRank, model: Model, bits: str, converts: Converts = converted) -> None:
    """Refuse modules to save that are stored in that many bits.

    Raises:
        PlanError: with their names.
    """
    if not method.modules_to_save:
        return
    packed = {name for path, module in model.paths for name in _saved(method, path, module, model, converts)}
    if packed:
        names = " and ".join(sorted(packed))
        message = f"{names} is stored in {bits}, which can't be trained: adapt it as a target instead, or leave it out"
        raise refusal("method.modules_to_save", message, list(method.modules_to_save or ()))


def _saved(method: LowRank, path: str, module: Module, model: Model, converts: Converts) -> tuple[str, ...]:
    """Return the names in `modules_to_save` that match a packed module."""
    names = method.modules_to_save if method.is_saved(path) and converts(path, module, model) else None
    return tuple(name for name in names or () if is_saved(path, (name,)))
