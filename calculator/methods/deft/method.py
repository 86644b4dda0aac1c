"""DEFT, decompositional efficient fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.deft import layer
from calculator.methods.deft.facts import FACTS
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
class DEFT(AdaptedLinear):
    """DEFT: a direction to remove, and an injected part in its place, for each adapted matrix."""

    name = "deft"
    facts = FACTS

    r: int = setting(8, label="Rank", help="The rank of the removed part.", minimum=1, maximum=65_536, example=8)
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    decomposition_method: Literal["relu", "qr"] = setting(
        "relu", label="Decomposition", help="How the removed part follows from the trained direction."
    )
    alpha: int | None = setting(
        None, label="Alpha", help="Scales what is injected by alpha / r.", minimum=0, maximum=1_000_000
    )
    para: bool = setting(False, label="PaRa", help="Only remove, inject nothing.")
    deft_dropout: float = settings.dropout()
    bias: Literal["none", "all", "deft_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield the decomposition whose scratch memory on a GPU is not known."""
        if self.decomposition_method == "qr":
            message = "the memory of the QR decomposition on a GPU is not modeled: use relu"
            yield Problem(loc="method.decomposition_method", msg=message, input="qr")

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the direction P, and the injected part R."""
        r, dtype = named(min(self.r, module.out_features), "r"), training.added_dtype
        direction = Added(name=layer.P, shape=(module.out_features, r), dtype=dtype)
        if self.para:
            return (direction,)
        return (direction, Added(name=layer.R, shape=(r, module.in_features), dtype=dtype))

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module without its removed part, plus the injected part."""
        return layer.forward(bound, x, self.deft_dropout)
