"""WaveFT, fine-tuning in the wavelet domain (Bilican et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.waveft import layer
from calculator.methods.waveft.facts import FACTS
from calculator.methods.waveft.wavelets import Wavelet, filter_length
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveFT(AdaptedLinear):
    """n_frequency trained wavelet coefficients for each adapted matrix, whose transform is a dense update."""

    name = "waveft"
    facts = FACTS

    n_frequency: int = setting(
        2592, label="Coefficients", help="How many coefficients of each matrix are trained.", minimum=1, maximum=10**9
    )
    scaling: float = setting(
        25.0, label="Scaling", help="The update is multiplied by it; memory is the same.", minimum=0, maximum=1e6
    )
    wavelet_family: Wavelet = setting("db1", label="Wavelet", help="The wavelet of the transform.", example="sym4")
    use_idwt: bool = setting(
        True,
        label="Inverse transform",
        help="Transform the coefficients. Without it, they are elements of the update.",
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    bias: Literal["none", "all", "waveft_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """What is not counted."""
        counted = "The workspace of cuDNN, which computes WaveFT's transforms, is not counted."
        return (counted,) if self.use_idwt else ()

    def own_problems(self, model: Model, found: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """More coefficients than a matrix has elements."""
        for path, module in found.items():
            if module.kind in self.adaptable and self.n_frequency > module.weight.elements:
                message = f"{path} has {module.weight.elements:,} elements: use at most that many"
                yield Problem(loc="method.n_frequency", msg=message, input=self.n_frequency)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """The coefficients."""
        shape = (named(self.n_frequency, "n_frequency"),)
        return (Added(name=layer.SPECTRUM, shape=shape, dtype=training.added_dtype),)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """The frozen module's product plus the update's."""
        return layer.forward(bound, x, filter_length(self.wavelet_family) if self.use_idwt else None)
