"""RandLoRA, full-rank updates from random matrices (Albert et al. 2025)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import ceil_div, elements, named
from calculator.common.dtype import ITEMSIZE
from calculator.inputs.settings import setting
from calculator.methods.randlora import layer
from calculator.methods.randlora.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added
from calculator.resident.tensor import ResidentTensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule


@dataclass(frozen=True, slots=True, kw_only=True)
class RandLoRA(AdaptedLinear):
    """RandLoRA: two scalings of frozen random matrices for each adapted matrix."""

    name = "randlora"
    facts = FACTS
    refuses_checkpoint = "PEFT writes every layer's view of the shared matrices as a copy"

    r: int = setting(
        32,
        label="Rank",
        help="The rank of each random matrix. With a smaller rank there are more matrices and more trained parameters.",
        minimum=1,
        maximum=65_536,
        example=32,
    )
    target_modules: TargetModules = settings.target_modules()
    save_projection: bool = settings.save_projection()
    randlora_dropout: float = settings.dropout()
    randlora_alpha: float = setting(
        640, label="Alpha", help="The update is scaled by randlora_alpha / r.", minimum=0, maximum=1e6
    )
    bias: Literal["none", "all", "randlora_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    def _bases(self, least: int) -> Dim:
        """Return the number of random matrices, from the size of the smaller side."""
        return named(ceil_div(least, self.r), "bases")

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the scalings λ and γ."""
        least, r, dtype = min(module.in_features, module.out_features), named(self.r, "r"), training.added_dtype
        bases = self._bases(least)
        return (
            Added(name=layer.LAMBDA, shape=(r, bases), dtype=dtype),
            Added(name=layer.GAMMA, shape=(bases, least), dtype=dtype),
        )

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """Return the shared matrices, which are buffers with the sizes of the largest adapted sides."""
        targets = [module for path, module in model.paths if self.is_target(path, module, model)]
        if not targets:
            return ()
        rows = max(module.out_features for module in targets)
        columns = max(module.in_features for module in targets)
        least, most = min(rows, columns), max(rows, columns)
        r, dtype = named(self.r, "r"), training.added_dtype
        shapes = {layer.SHARED_A: (r, 1, least), layer.SHARED_B: (most, self._bases(least), r)}
        return tuple(
            ResidentTensor(name=name, shape=shape, dtype=dtype, component="adapter_weights", base=False)
            for name, shape in shapes.items()
        )

    def saved_bytes(self, state: tuple[ResidentTensor, ...], model: Model) -> int:
        """Return the bytes of the scalings, and of the matrices if they are saved."""
        names = (layer.SHARED_A, layer.SHARED_B) if self.save_projection else ()
        shared = sum(elements(tensor.shape) * ITEMSIZE[tensor.dtype] for tensor in state if tensor.name in names)
        return AdaptedLinear.saved_bytes(self, state, model) + shared

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the update."""
        return layer.forward(self, bound, x)
