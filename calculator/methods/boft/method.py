"""BOFT, orthogonal fine-tuning by butterfly factors (Liu et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from calculator.architecture.dimension import named
from calculator.common.errors import Problem
from calculator.inputs.settings import setting
from calculator.methods.boft import layer
from calculator.methods.boft.facts import FACTS
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
    from calculator.resident.tensor import ResidentTensor

#: The sentence on where the permutations are stored.
PERMUTATIONS = (
    "BOFT's permutations, float32 matrices of in_features × in_features, stay on the host if the model was on the GPU"
    " when PEFT added the adapter, as in the exported script, and are copied in each forward pass. A Trainer,"
    " accelerate and DeepSpeed move them to the GPU."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BOFT(AdaptedLinear):
    """BOFT: blocks that form a rotation of the whole input of each adapted matrix, and a scale of its output."""

    name = "boft"
    facts = FACTS
    adaptable = ("linear",)

    boft_block_size: int = setting(
        4, label="Block size", help="The size of a block; 0 where boft_block_num is set.", minimum=0, maximum=65_536
    )
    boft_block_num: int = setting(
        0, label="Blocks", help="The number of blocks; 0 where boft_block_size is set.", minimum=0, maximum=65_536
    )
    boft_n_butterfly_factor: int = setting(
        1,
        label="Butterfly factors",
        help="With more than one, PEFT needs a kernel that it compiles; without the kernel, it uses 1.",
        minimum=1,
        maximum=16,
    )
    target_modules: TargetModules = settings.target_modules()
    exclude_modules: tuple[str, ...] | None = settings.exclude_modules()
    bias: Literal["none", "all", "boft_only"] = settings.bias()
    modules_to_save: tuple[str, ...] | None = settings.modules_to_save()

    @property
    def assumptions(self) -> tuple[str, ...]:
        """Say where the permutations are stored, and that no kernel is compiled."""
        return (PERMUTATIONS, "The figures are for BOFT without its compiled kernel (fbd_cuda).")

    @property
    def makes_on_host(self) -> bool:
        """True: PEFT makes the permutations on the host."""
        return True

    def own_problems(self, model: Model, targets: dict[str, Module]) -> Iterator[Problem]:  # noqa: ARG002
        """Yield settings that BOFTConfig and update_layer refuse, and several butterfly factors."""
        if (self.boft_block_size == 0) == (self.boft_block_num == 0):
            message = "set either boft_block_size or boft_block_num, and the other one to 0"
            yield Problem(loc="method.boft_block_size", msg=message, input=self.boft_block_size)
            return
        if self.boft_n_butterfly_factor > 1:
            message = "several factors need BOFT's compiled kernel, which is not modeled: use 1"
            yield Problem(loc="method.boft_n_butterfly_factor", msg=message, input=self.boft_n_butterfly_factor)
        name = "boft_block_size" if self.boft_block_size else "boft_block_num"
        number = getattr(self, name)
        odd = [item for item in targets.items() if item[1].kind in self.adaptable and item[1].in_features % number]
        for path, module in odd[:1]:
            message = f"the input of {path} ({module.in_features:,}) must be a multiple of it"
            yield Problem(loc=f"method.{name}", msg=message, input=number)

    def parameters(self, path: str, module: Module, model: Model, training: Training) -> tuple[Added, ...]:  # noqa: ARG002
        """Return the blocks, the scale, and the buffer with the permutation."""
        size = self.boft_block_size or int(module.in_features) // self.boft_block_num
        blocks, size = named(int(module.in_features) // size, "blocks"), named(size, "boft_block_size")
        dtype, n = training.added_dtype, module.in_features
        return (
            Added(name=layer.ROTATION, shape=(1, blocks, size, size), dtype=dtype),
            Added(name=layer.SCALE, shape=(module.out_features, 1), dtype=dtype),
            Added(
                name=layer.PERMUTATION, shape=(1, n, n), dtype="float32", trained=False, buffer=True, made_on_host=True
            ),
        )

    def is_matmul(self, tensor: ResidentTensor) -> bool:  # noqa: ARG002
        """Return False: the blocks form a rotation, and the scale is read."""
        return False

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """Return the scaled output of the frozen module for the rotated input."""
        return layer.forward(bound, x)
