"""PEANuT, updates from a small network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.inputs.settings import setting
from calculator.methods.peanut import layer
from calculator.methods.peanut.facts import FACTS
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
class PEANuT(AdaptedLinear):
    """PEANuT: a network for each adapted matrix, whose input is the matrix."""

    name = "peanut"
    facts = FACTS
    adaptable = ("linear",)

    r: int = setting(32, label="Rank", help="The width of the network.", minimum=1, maximum=65_536, example=32)
    depth: int = setting(
        0, label="Depth", help="Pairs of layers between the first and the last.", minimum=0, maximum=64
    )
    act_fn: Literal["relu", "gelu", "silu", "tanh"] = setting(
        "relu", label="Activation", help="The function after each layer but the last."
    )
    scaling: float = setting(
        1.0,
        label="Scaling",
        help="The update is multiplied by this factor; memory is the same.",
        minimum=0,
        maximum=1e6,
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the matrices of the network."""
        r, dtype = named(self.r, "r"), training.added_dtype
        between = [
            f"{kind}.{number}.weight" for kind in (layer.ENCODERS, layer.DECODERS) for number in range(self.depth)
        ]
        return (
            Added(name=layer.A, shape=(r, module.out_features), dtype=dtype),
            Added(name=layer.B, shape=(module.out_features, r), dtype=dtype),
            *(Added(name=name, shape=(r, r), dtype=dtype) for name in between),
        )

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus that of the update."""
        return layer.forward(self, bound, x)
