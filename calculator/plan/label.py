"""A method with the settings that a plan chooses, in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.compare.methods import AXES
from calculator.methods import Adapter, LoRA, Prefix, Prompt, QLoRA

if TYPE_CHECKING:
    from calculator.methods import Method


def label(method: Method) -> str:
    """Its name and its size: LoRA, r 16 on every linear layer."""
    return ", ".join((AXES[method.name].label, *_sizes(method)))


def _sizes(method: Method) -> tuple[str, ...]:
    if isinstance(method, LoRA | QLoRA):
        where = "every linear layer" if method.target_modules == "all-linear" else "attention"
        bare = isinstance(method, QLoRA) and not method.prepare_model_for_kbit_training
        return (f"r {method.r} on {where}", *(("not prepared",) if bare else ()))
    if isinstance(method, Adapter):
        return (f"bottleneck {method.bottleneck_size}",)
    return (f"{method.num_virtual_tokens} virtual tokens",) if isinstance(method, Prefix | Prompt) else ()
