"""HRA, Householder reflection adaptation (Yuan et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.hra import layer
from calculator.methods.hra.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class HRA(AdaptedLinear):
    """HRA: r vectors for each adapted matrix, each of which reflects its input."""

    name = "hra"
    facts = FACTS
    adaptable = ("linear",)

    r: int = setting(8, label="Rank", help="The number of reflections.", minimum=1, maximum=1024, example=8)
    apply_GS: bool = setting(  # noqa: N815  PEFT's name
        False, label="Gram–Schmidt", help="Make the vectors orthogonal in each step."
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    bias: Literal["none", "all", "hra_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield orthogonal vectors, which are not modeled."""
        if self.apply_GS:
            message = "the steps of Gram–Schmidt are not modeled: use false"
            yield Problem(loc="method.apply_GS", msg=message, input=True)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the vectors as columns."""
        shape = (module.in_features, named(self.r, "r"))
        return (Added(name=layer.VECTORS, shape=shape, dtype=training.added_dtype),)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the product with the reflected weight."""
        return layer.forward(bound, x, self.r)
