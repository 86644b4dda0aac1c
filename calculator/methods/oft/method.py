"""OFT, orthogonal fine-tuning (Qiu et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.oft import layer
from calculator.methods.oft.facts import FACTS
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
class OFT(AdaptedLinear):
    """OFT: a rotation of each block of the input of each adapted matrix."""

    name = "oft"
    facts = FACTS
    adapts_embeddings = True
    adaptable = ("linear",)

    r: int = setting(
        0, label="Blocks", help="The number of blocks; 0 where oft_block_size is set.", minimum=0, maximum=65_536
    )
    oft_block_size: int = setting(
        32,
        label="Block size",
        help="The size of a block; 0 where r is set. PEFT takes the nearest one that divides the input.",
        minimum=0,
        maximum=65_536,
    )
    target_modules: TargetModules = settings.target_modules()
    bias: Literal["none", "all", "oft_only"] = settings.bias()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()
    unfrozen_dtype: Literal["model", "float32"] = settings.unfrozen_dtype()
    block_share: bool = setting(False, label="Share blocks", help="Share one rotation between the blocks of a module.")
    use_cayley_neumann: bool = setting(
        True, label="Neumann series", help="Compute rotations by a Neumann series instead of solving linear equations."
    )
    num_cayley_neumann_terms: int = setting(
        5,
        label="Terms of the series",
        help="The terms of the Neumann series; with 1 no rotation would be trained.",
        minimum=2,
        maximum=100,
    )

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield neither or both sizes, and blocks of size 1, which have no elements to train."""
        if (self.r == 0) == (self.oft_block_size == 0):
            message = "set either r or oft_block_size, and the other one to 0"
            yield Problem(loc="method.oft_block_size", msg=message, input=self.oft_block_size)
            return
        for path, module in targets.items():
            width = int(module.in_features)
            if self._blocks(width)[1] == 1:
                name = "oft_block_size" if self.oft_block_size else "r"
                message = f"PEFT divides the input of {path} ({width:,}) into blocks of 1: use a divisor of it"
                yield Problem(loc=f"method.{name}", msg=message, input=getattr(self, name))

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the elements above the diagonal of each block, and their indices, which are buffers."""
        blocks, size = self._blocks(int(module.in_features))
        elements = named(size * (size - 1) // 2, "b · (b − 1) / 2")
        shape = (1 if self.block_share else named(blocks, "blocks"), elements)
        return (
            Added(name=layer.WEIGHT, shape=shape, dtype=training.added_dtype),
            Added(name=layer.ROWS, shape=(elements,), dtype="int64", trained=False, buffer=True),
            Added(name=layer.COLUMNS, shape=(elements,), dtype="int64", trained=False, buffer=True),
        )

    def _blocks(self, width: int) -> tuple[int, int]:
        """Return the number of blocks and their size."""
        if self.oft_block_size:
            size = _divisor(width, self.oft_block_size)
            return width // size, size
        blocks = _divisor(width, self.r)
        return blocks, width // blocks

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the output of the frozen module for the rotated input."""
        return layer.forward(self, bound, x)


def _divisor(width: int, wanted: int) -> int:
    """Return the divisor of a width that is nearest to the wanted one, the smaller of two.

    Source: OFTLayer.adjust_oft_parameters.
    """
    if wanted >= width:
        return width
    higher = next(size for size in range(wanted, width + 1) if width % size == 0)
    lower = next(size for size in range(wanted, 0, -1) if width % size == 0)
    return lower if wanted - lower <= higher - wanted else higher
