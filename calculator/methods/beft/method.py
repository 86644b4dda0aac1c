"""BEFT: a trained bias of linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.methods.beft.facts import FACTS
from calculator.methods.costs import OtherOperations
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensor import ResidentTensor

#: The parameter's name within its module.
_BIAS = "beft_bias"


@dataclass(frozen=True, slots=True, kw_only=True)
class BEFT(AdaptedLinear):
    """BEFT: out_features parameters for each adapted matrix."""

    name = "beft"
    facts = FACTS
    adaptable = ("linear",)

    target_modules: TargetModules = settings.target_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the bias."""
        return (Added(name=_BIAS, shape=(1, module.out_features), dtype=training.added_dtype),)

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: a bias is added."""
        return False

    def other_operations(self, added: Sequence[ResidentTensor], batch: int) -> OtherOperations:  # noqa: ARG002
        """Return one sum for each element."""
        count = sum(tensor.parameters * tensor.count for tensor in added)
        return OtherOperations(formula="added weights", count=count)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Run peft.tuners.beft.layer.Linear.forward."""
        bias = ops.view(bound.added[_BIAS], (bound.module.out_features,))
        result = bound.base_layer(x)
        return ops.cast(ops.add(result, bias, "result + bias"), result.dtype, "output")
