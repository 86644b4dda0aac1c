"""GraLoRA, granular low-rank adaptation (Jung et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.gralora import layer
from calculator.methods.gralora.facts import FACTS
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
class GraLoRA(AdaptedLinear):
    """GraLoRA: r · (in_features + out_features) parameters for each adapted matrix."""

    name = "gralora"
    facts = FACTS

    r: int = setting(32, label="Rank", help="The rank of the blocks' updates.", minimum=1, maximum=65_536, example=32)
    hybrid_r: int = setting(
        0, label="Hybrid rank", help="The rank of an additional plain low-rank update.", minimum=0, maximum=65_536
    )
    target_modules: TargetModules = settings.target_modules()
    alpha: float = setting(64, label="Alpha", help="Scales the update by alpha / r.", minimum=0, maximum=1e6)
    gralora_dropout: float = settings.dropout()
    gralora_k: int = setting(
        2, label="Blocks", help="The weight is divided into gralora_k × gralora_k blocks.", minimum=1, maximum=65_536
    )
    bias: Literal["none", "all", "gralora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def rank_multiple(self) -> int:
        """The number of blocks along a side of the matrix."""
        return self.gralora_k

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield numbers of blocks that do not divide the rank or a side of the matrix."""
        if self.r % self.gralora_k:
            message = f"r must be divisible by gralora_k ({self.gralora_k:,})"
            yield Problem(loc="method.r", msg=message, input=self.r)
        for path, module in targets.items():
            if module.kind in self.adaptable and (
                module.in_features % self.gralora_k or module.out_features % self.gralora_k
            ):
                message = f"must divide both sides of {path} ({module.in_features:,} and {module.out_features:,})"
                yield Problem(loc="method.gralora_k", msg=message, input=self.gralora_k)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the stacked factors of the blocks, and those of a plain update."""
        k, r, dtype = named(self.gralora_k, "gralora_k"), named(self.r, "r"), training.added_dtype
        rows, columns = module.out_features, module.in_features
        added = [
            Added(name=layer.A, shape=(k, columns // k, r), dtype=dtype),
            Added(name=layer.B, shape=(k, r, rows // k), dtype=dtype),
        ]
        if self.hybrid_r:
            hybrid = named(self.hybrid_r, "hybrid_r")
            added.append(Added(name=layer.PLAIN_A, shape=(hybrid, columns), dtype=dtype))
            added.append(Added(name=layer.PLAIN_B, shape=(rows, hybrid), dtype=dtype))
        return tuple(added)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the updates."""
        return layer.forward(bound, x, self.gralora_dropout)
