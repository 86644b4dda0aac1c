"""LoRA (Hu et al. 2021): a low-rank update beside frozen weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from calculator.methods import low_rank
from calculator.methods.base import Method
from calculator.methods.settings import LowRank
from calculator.resident.module_spec import ModuleSpec

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class LoRA(LowRank, Method):
    """r · (in_features + out_features) parameters for each adapted matrix."""

    name: ClassVar[str] = "lora"

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """Frozen, with A and B beside each target."""
        dtype = training.dtype
        return ModuleSpec(dtype=dtype, **low_rank.adapted(self, path, module, model, training, dtype))

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """The frozen product and the update beside it."""
        return low_rank.forward(self, bound, x)

    def looked_up(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:
        """The frozen rows and the update beside them."""
        return low_rank.embedded(bound, ids, rows, scale)
