"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.methods.base import Method
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class Full(Method):
    """Every weight of the base model is trained; nothing is added."""

    name: ClassVar[str] = "full"

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:  # noqa: ARG002
        """Each parameter of each module is trained in the model's dtype."""
        return ModuleSpec(dtype=training.dtype, trained=tuple(p.name for p in module.parameters))
