"""MiSS, Matrix Shard Sharing (Kang & Yin 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.miss import layer
from calculator.methods.miss.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Shape
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class MiSS(AdaptedLinear):
    """MiSS: one matrix for each adapted matrix, multiplied with the sum of the input's blocks."""

    name = "miss"
    facts = FACTS
    adaptable = ("linear",)

    r: int = setting(64, label="Rank", help="The size of the input's blocks.", minimum=1, maximum=65_536, example=16)
    miss_dropout: float = settings.dropout()
    mini_r: int = setting(
        1,
        label="Rank of the output",
        help="With init_weights mini, the columns of the matrix, which is repeated over the output.",
        minimum=1,
        maximum=65_536,
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    init_weights: bool | Literal["bat", "mini"] = setting(
        True,
        label="Variant",
        help="true for MiSS; bat changes each r × r block of the weight; mini repeats a matrix of r × mini_r.",
    )
    bias: Literal["none", "all", "miss_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield sizes that the blocks do not divide."""
        for path, module in targets.items():
            if module.kind != "linear":
                continue
            rows, columns = int(module.out_features), int(module.in_features)
            if self.r > columns:
                yield self._problem("r", f"{self.r:,} is larger than the input of {path} ({columns:,})")
            elif self.init_weights == "bat" and (rows % self.r or columns % self.r):
                yield self._problem("r", f"bat needs an r that divides both sides of {path} ({rows:,} and {columns:,})")
            elif self.init_weights == "mini" and rows % self.mini_r:
                yield self._problem("mini_r", f"must divide the output of {path} ({rows:,})")

    def _problem(self, name: str, message: str) -> Problem:
        return Problem(loc=f"method.{name}", msg=message, input=getattr(self, name))

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return one block."""
        return (Added(name=layer.BLOCK, shape=self._shape(module), dtype=training.added_dtype),)

    def _shape(self, module: Module) -> Shape:
        r = named(self.r, "r")
        if self.init_weights == "bat":
            return (module.out_features // r, r, r)
        return (r, named(self.mini_r, "mini_r") if self.init_weights == "mini" else module.out_features)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update, or the product with the changed weight."""
        return layer.forward(self, bound, x)
