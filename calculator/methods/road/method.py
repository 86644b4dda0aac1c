"""RoAd, 2D rotary adaptation (Liao & Monz 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.costs import OtherOperations
from calculator.methods.road import layer
from calculator.methods.road.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class RoAd(AdaptedLinear):
    """RoAd: an angle and a length for each pair of outputs, or for each output."""

    name = "road"
    facts = FACTS
    adaptable = ("linear",)

    variant: Literal["road_1", "road_2", "road_4"] = setting(
        "road_1", label="Variant", help="How many parameters each pair of outputs has: 2, 4 or 8."
    )
    group_size: int = setting(
        64, label="Group size", help="Outputs of a group, whose halves are paired.", minimum=2, maximum=65_536
    )
    target_modules: TargetModules = settings.target_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield groups that have no halves or do not divide the output."""
        if self.group_size % 2:
            yield Problem(loc="method.group_size", msg="must be even", input=self.group_size)
        for path, module in targets.items():
            if module.kind == "linear" and module.out_features % self.group_size:
                message = f"must divide the output of {path} ({module.out_features:,})"
                yield Problem(loc="method.group_size", msg=message, input=self.group_size)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return angles and lengths."""
        width = module.out_features
        size = {"road_1": width // 2, "road_2": width, "road_4": width * 2}[self.variant]
        return tuple(Added(name=name, shape=(size,), dtype=training.added_dtype) for name in (layer.THETA, layer.ALPHA))

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: angles and lengths are factors of elementwise products."""
        return False

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:  # noqa: ARG002
        """Return two products and a sum for each output. road_1 has half as many angles."""
        share = {"road_1": 2, "road_2": 1, "road_4": 0.5}[self.variant]
        angles = sum(tensor.parameters * tensor.count for tensor in added if tensor.name.endswith(layer.THETA))
        return OtherOperations(formula="3 × outputs", count=round(3 * share * angles))

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the rotated output of the frozen module."""
        return layer.forward(self, bound, x)
