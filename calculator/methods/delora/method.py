"""DeLoRA, decoupled low-rank adaptation (Bini et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.inputs.settings import setting
from calculator.methods.delora import layer
from calculator.methods.delora.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class DeLoRA(AdaptedLinear):
    """DeLoRA: r · (in_features + out_features) + 1 parameters for each adapted matrix."""

    name = "delora"
    facts = FACTS
    refuses_checkpoint = "PEFT writes the norms of the weights too"
    adaptable = ("linear",)

    r: int = setting(8, label="Rank", help="The rank r of the update.", minimum=1, maximum=65_536, example=16)
    delora_lambda: float = setting(
        15, label="Strength", help="The initial bound of the update's norm; memory is the same.", minimum=0, maximum=1e6
    )
    module_dropout: float = settings.dropout()
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    bias: Literal["none", "all", "delora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return A, B, λ, and the norms of the weight's columns, which are a buffer."""
        r, dtype = named(self.r, "r"), training.added_dtype
        return (
            Added(name=layer.A, shape=(r, module.in_features), dtype=dtype),
            Added(name=layer.B, shape=(module.out_features, r), dtype=dtype),
            Added(name=layer.LAMBDA, shape=(1,), dtype=dtype),
            Added(name=layer.NORM, shape=(module.in_features,), dtype=dtype, trained=False, buffer=True),
        )

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(bound, x, self.module_dropout)
