"""AdaMSS, adaptive multi-subspaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.adamss import layer
from calculator.methods.adamss.facts import FACTS
from calculator.methods.targeted import settings
from calculator.methods.targeted.adapted_linear import AdaptedLinear
from calculator.methods.targeted.method import TargetModules  # noqa: TC001  `declared` evaluates annotations
from calculator.resident.module_spec import Added

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.dimension import Dim
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensor import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaMSS(AdaptedLinear):
    """subspace_rank · (num_subspaces · r + out_features) parameters for each adapted matrix, and a frozen projection.

    PEFT clusters the rows of a weight's left singular vectors by K-means. Each cluster is a subspace.
    """

    name = "adamss"
    facts = FACTS
    adaptable = ("linear",)

    r: int = setting(
        100, label="Rank", help="The singular vectors of each weight.", minimum=1, maximum=65_536, example=100
    )
    num_subspaces: int = setting(
        5, label="Subspaces", help="The clusters of each weight's outputs.", minimum=1, maximum=1_024, example=5
    )
    subspace_rank: int = setting(
        1, label="Subspace rank", help="The rank of each cluster's update.", minimum=1, maximum=65_536
    )
    target_modules: TargetModules = settings.target_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Say what the figures assume about the values of the weights."""
        clusters = "AdaMSS clusters each weight's outputs by its values: the clusters are assumed to be equally large."
        others = "With others, the factors are as many numbers, unless a cluster is smaller than subspace_rank."
        return (f"{clusters} {others} Each factor may take 512 bytes more or less then.",)

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield subspaces of a higher rank than the projection. PEFT gives their factors shapes that do not match."""
        for path, module in targets.items():
            if module.kind == "linear" and min(self.subspace_rank, *self._sizes(module)) > self._rank(module):
                message = f"is larger than the {self._rank(module):,} singular vectors of {path}: use at most that"
                yield Problem(loc="method.subspace_rank", msg=message, input=self.subspace_rank)
                return

    def _rank(self, module: Module) -> Dim:
        """Return the number of singular vectors of a weight, to which PEFT joins the bias."""
        most = min(int(module.out_features), self._columns(module))
        return named(min(self.r, most), "r")

    def _columns(self, module: Module) -> int:
        return int(module.in_features) + (module.bias is not None)

    def _sizes(self, module: Module) -> list[int]:
        """Return the number of outputs of each subspace. If they are not equal, the first ones have one more."""
        width = int(module.out_features)
        count = min(self.num_subspaces, width)
        return [width // count + (number < width % count) for number in range(count)]

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the factors of each subspace, and the projection."""
        dtype, r, columns = training.added_dtype, self._rank(module), named(self._columns(module), "in_features")
        sizes = [(named(size, "outputs"), named(min(size, self.subspace_rank), "rank")) for size in self._sizes(module)]
        a_parameters = (Added(name=f"{layer.A}.{i}", shape=(rank, r), dtype=dtype) for i, (_, rank) in enumerate(sizes))
        b_parameters = (
            Added(name=f"{layer.B}.{i}", shape=(size, rank), dtype=dtype) for i, (size, rank) in enumerate(sizes)
        )
        projection = Added(name=layer.PROJECTION, shape=(r, columns), dtype=dtype, trained=False, buffer=True)
        return (*a_parameters, *b_parameters, projection)

    def saves_frozen(self, tensor: ResidentTensor) -> bool:
        """Return whether a tensor is the projection, which PEFT saves although it is frozen."""
        return tensor.name.endswith(layer.PROJECTION)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module plus the updates."""
        return layer.forward(bound, x, len(self._sizes(bound.module)))
