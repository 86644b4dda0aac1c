"""C3A, circular convolution adaptation (Chen et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.c3a import layer
from calculator.methods.c3a.facts import FACTS
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
class C3A(AdaptedLinear):
    """C3A: a kernel for each adapted matrix. Each vector of it is a circulant block of the update."""

    name = "c3a"
    facts = FACTS
    adaptable = ("linear",)

    block_size: int = setting(
        256,
        label="Block size",
        help="The size of a circulant block. It must divide both sides of each target.",
        minimum=2,
        maximum=65_536,
        example=256,
    )
    target_modules: TargetModules = settings.target_modules()
    bias: Literal["none", "all", "c3a_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what is not counted."""
        return ("The workspace of cuFFT, which computes C3A's transforms, is not counted.",)

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield sizes that the blocks do not divide."""
        for path, module in targets.items():
            sides = (int(module.in_features), int(module.out_features))
            if module.kind == "linear" and any(side % self.block_size for side in sides):
                message = f"must divide both sides of {path} ({sides[0]:,} and {sides[1]:,})"
                yield Problem(loc="method.block_size", msg=message, input=self.block_size)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the kernel."""
        size = named(self.block_size, "block_size")
        shape = (module.out_features // size, module.in_features // size, size)
        return (Added(name=layer.KERNEL, shape=shape, dtype=training.added_dtype),)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the convolution."""
        return layer.forward(bound, x)
