"""WaveFT, fine-tuning in the wavelet domain (Bilican et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.inputs.settings import setting
from calculator.methods.targeted import settings
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.methods.targeted.trained_spectrum import TrainedSpectrum
from calculator.methods.waveft import layer
from calculator.methods.waveft.facts import FACTS
from calculator.methods.waveft.wavelets import Wavelet, filter_length

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveFT(TrainedSpectrum):
    """WaveFT: n_frequency trained wavelet coefficients for each adapted matrix. Their transform is a dense update."""

    name = "waveft"
    facts = FACTS
    spectrum = layer.SPECTRUM

    n_frequency: int = setting(
        2592, label="Coefficients", help="How many coefficients of each matrix are trained.", minimum=1, maximum=10**9
    )
    scaling: float = setting(
        25.0,
        label="Scaling",
        help="The update is multiplied by this factor; memory is the same.",
        minimum=0,
        maximum=1e6,
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
        """Sentences on what is not counted."""
        counted = "The workspace of cuDNN, which computes WaveFT's transforms, is not counted."
        return (counted,) if self.use_idwt else ()

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus that of the update."""
        return layer.forward(bound, x, filter_length(self.wavelet_family) if self.use_idwt else None)
