"""FourierFT, fine-tuning in the frequency domain (Gao et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.inputs.settings import setting
from calculator.methods.fourierft import layer
from calculator.methods.fourierft.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.targeted.trained_spectrum import TrainedSpectrum

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierFT(TrainedSpectrum):
    """FourierFT: n_frequency trained frequencies for each adapted matrix. Their transform is a dense update."""

    name = "fourierft"
    facts = FACTS
    spectrum = layer.SPECTRUM

    n_frequency: int = setting(
        1000, label="Frequencies", help="How many frequencies of each matrix are trained.", minimum=1, maximum=10**9
    )
    scaling: float = setting(
        150.0,
        label="Scaling",
        help="The update is multiplied by this factor; memory is the same.",
        minimum=0,
        maximum=1e6,
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    bias: Literal["none", "all", "fourier_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Sentences on what is not counted."""
        return ("The workspace of cuFFT, which computes FourierFT's transforms, is not counted.",)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus that of the update."""
        return layer.forward(bound, x)
