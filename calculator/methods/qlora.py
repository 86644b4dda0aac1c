"""QLoRA (Dettmers et al. 2023): LoRA over a base stored in 4 bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

from calculator.common.errors import refusal
from calculator.inputs.settings import setting
from calculator.methods import low_rank, saved
from calculator.methods.base import Method
from calculator.methods.settings import LowRank
from calculator.resident.module_spec import ModuleSpec
from calculator.resident.quantization import (
    Quantization,
    blocksize_setting,
    check_blocksize,
    code_book,
    converted,
    four_bits,
)

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.bound_module import BoundModule
    from calculator.resident.tensors import ResidentTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class QLoRA(LowRank, Method):
    """LoRA over linear layers that bitsandbytes stores in 4 bits and dequantises for each product."""

    name: ClassVar[str] = "qlora"

    quant_type: Literal["nf4", "fp4"] = setting("nf4", label="4-bit type", help="NormalFloat4 or 4-bit floating point.")
    double_quant: bool = setting(
        True, label="Double quantisation", help="Quantise the block constants too (section 3 of the paper)."
    )
    blocksize: int = blocksize_setting()
    prepare_model_for_kbit_training: bool = setting(
        True,
        label="Prepare for k-bit training",
        help="Cast everything that is not in 4 bits to float32, as PEFT's function of that name does.",
    )

    def check(self, model: Model, training: Training) -> None:
        """Refuse to train what is stored in 4 bits, and blocks of no known size."""
        check_blocksize("method.blocksize", self.blocksize)
        LowRank.check(self, model, training)
        if not self.modules_to_save:
            return
        packed = {name for path, module in model.paths for name in self._saved(path, module, model)}
        if packed:
            told = " and ".join(sorted(packed))
            message = (
                f"{told} is stored in 4 bits, which can't be trained: adapt it as a target instead, or leave it out"
            )
            raise refusal("method.modules_to_save", message, list(self.modules_to_save or ()))

    def _saved(self, path: str, module: Module, model: Model) -> tuple[str, ...]:
        """The names among `modules_to_save` by which a module is found that is stored in 4 bits."""
        names = self.modules_to_save if self.copies(path) and converted(path, module, model) else None
        return tuple(name for name in names or () if saved.is_saved(path, replace(self, modules_to_save=(name,))))

    def module_spec(self, path: str, module: Module, model: Model, training: Training) -> ModuleSpec:
        """4-bit where bitsandbytes converts the module, with A and B beside each target."""
        dense: DType = "float32" if self.prepare_model_for_kbit_training else training.dtype
        quantization = self.quantization(training) if converted(path, module, model) else None
        base = quantization.compute_dtype if quantization else dense
        adapted = low_rank.adapted(self, path, module, model, training, base)
        return ModuleSpec(dtype=dense, quantization=quantization, runs=not model.is_idle(path), **adapted)

    def hidden_dtype(self, training: Training) -> DType:
        """The dtype of hidden states: that of the embeddings and norms."""
        return "float32" if self.prepare_model_for_kbit_training else training.dtype

    def added(self, model: Model, training: Training) -> tuple[ResidentTensor, ...]:
        """The code book of nested constants, where bitsandbytes makes any."""
        return code_book(model, self.quantization(training))

    def quantization(self, training: Training) -> Quantization:
        """How the base is stored."""
        return four_bits(self.quant_type, self.blocksize, training.dtype, double_quant=self.double_quant)

    def forward(self, bound: BoundModule, x: Tensor) -> Tensor:
        """The dequantised product and the update beside it."""
        return low_rank.forward(self, bound, x)

    def looked_up(self, bound: BoundModule, ids: Tensor, rows: Tensor, scale: Tensor | None) -> Tensor:
        """The frozen rows and the update beside them."""
        return low_rank.embedded(bound, ids, rows, scale)
