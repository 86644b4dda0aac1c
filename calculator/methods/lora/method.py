"""LoRA (Hu et al. 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.methods.lora.facts import FACTS
from calculator.methods.low_rank import layer
from calculator.methods.low_rank.method import LowRank
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.inputs.training import Training


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA(LowRank):
    """r · (in_features + out_features) parameters for each adapted matrix."""

    name = "lora"
    facts = FACTS

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Frozen, with A and B added to each target."""
        dtype = training.dtype
        return ModuleSpec(dtype=dtype, **layer.adapted(self, path, module, model, training, dtype))
