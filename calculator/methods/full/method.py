"""Full fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.methods.base import Method
from calculator.methods.full.facts import FACTS
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Full(Method):
    """Full fine-tuning: every weight of the base model is trained, and nothing is added."""

    name = "full"
    facts = FACTS

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:  # noqa: ARG002
        """Return the module with every parameter trained in the model's dtype, unless the model's class freezes it."""
        trained = tuple(parameter.name for parameter in module.parameters if not parameter.frozen)
        return ModuleSpec(dtype=training.dtype, trained=trained)

    def saved_name(self, name: str) -> str:
        """Return the model's own name, since transformers writes it."""
        return name
