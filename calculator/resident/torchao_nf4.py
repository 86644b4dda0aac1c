"""torchao's storage of weights in NF4, with constants that are quantized too: the base of torchtune's QLoRA."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import Dim, elements, symbolic
from calculator.resident.stored_weight import Casts, Constant, StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: The number of weights that share a constant, and of constants that share one. Source: to_nf4.
BLOCK_SIZE, SCALER_BLOCK_SIZE = 64, 256

#: The number of a matrix's weights is a multiple of this. Source: NF4Tensor.double_quantize_scalers.
MULTIPLE = BLOCK_SIZE * SCALER_BLOCK_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchAONF4(StoredWeight):
    """NF4Tensor. Source: torchao 0.10, torchao/dtypes/nf4tensor.py."""

    casts: ClassVar[Casts] = "sum"

    #: The dtype of the dense weight that it stands for.
    dtype: DType

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the model, because biases are not quantized."""
        return self.dtype

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight, two elements per byte."""
        return (Dim(elements(shape) // 2, lambda: f"{symbolic(shape)} / 2"),), "uint8"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the constants: that of each block, that of each 256 of these, their mean, and the values of NF4."""
        blocks = Dim(elements(shape) // BLOCK_SIZE, lambda: f"{symbolic(shape)} / {BLOCK_SIZE}")
        nested = Dim(elements(shape) // MULTIPLE, lambda: f"{symbolic(shape)} / {MULTIPLE:,}")
        return (
            ("quantized_scalers", (blocks,), "int8"),
            ("quantization_factor", (nested,), self.dtype),
            ("scaler_mean", (), self.dtype),
            ("nf4", (16,), self.dtype),
        )


@cache
def torchao_nf4(dtype: DType) -> TorchAONF4:
    """Return a cached format, which all modules of a model share."""
    return TorchAONF4(dtype=dtype)
