"""SHiRA, sparse high-rank adapters (Bhardwaj et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.shira import layer
from calculator.methods.shira.facts import FACTS
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
    from calculator.resident.tensor import ResidentTensor

#: The sentence of an answer with SHiRA on its source.
FROM_SOURCE = (
    "What sums of dense and sparse tensors allocate on a GPU is from PyTorch's source: the meta device, on which steps"
    " are traced, has no kernel for them. The indices of SHiRA's elements are counted on the GPU."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SHiRA(AdaptedLinear):
    """SHiRA: trained elements of each adapted matrix, as many as LoRA of that rank has parameters."""

    name = "shira"
    facts = FACTS
    adaptable = ("linear",)

    r: int = setting(
        32,
        label="Rank",
        help="The number of trained elements is the number of parameters that LoRA with this rank has.",
        minimum=1,
        maximum=65_536,
        example=32,
    )
    target_modules: TargetModules = settings.target_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what is only known from source code."""
        return (FROM_SOURCE,)

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield more elements than a matrix has (ShiraLayer.update_layer)."""
        for path, module in targets.items():
            most = module.in_features * module.out_features // (module.in_features + module.out_features)
            if module.kind in self.adaptable and self.r > most:
                way_out = f"use at most {most:,}" if most else f"name target_modules without {path}"
                message = f"{path} has fewer elements than r · (in_features + out_features): {way_out}"
                yield Problem(loc="method.r", msg=message, input=self.r)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the elements and their positions."""
        count = named(self.r, "r") * (module.in_features + module.out_features)
        return (
            Added(name=layer.WEIGHT, shape=(count,), dtype=training.added_dtype),
            Added(name=layer.INDICES, shape=(2, count), dtype="int32", trained=False, buffer=True),
        )

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Return whether it has the positions of elements, which PEFT writes (ShiraModel._get_adapter_state_dict)."""
        return tensor.name.endswith(layer.INDICES)

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: a token is multiplied with the changed weight."""
        return False

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the product with the changed copy of the weight."""
        return layer.forward(bound, x)
