"""torchao's storage of weights in 8 bits, with a scale for each output (Int8WeightOnlyConfig)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from calculator.resident.stored_weight import Casts, Constant, StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchAOInt8(StoredWeight):
    """Int8Tensor. Source: torchao 0.18, quantization/quantize_/workflows/int8/int8_tensor.py."""

    casts: ClassVar[Casts] = "sum"

    #: The dtype of the dense weight that it stands for.
    dtype: DType

    @property
    def bias_dtype(self) -> DType:
        """That of the model: biases are not quantised."""
        return self.dtype

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """The weight, one byte per element."""
        return shape, "int8"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """The scale of each output."""
        return (("scale", (shape[0], 1), "float32"),)


@cache
def torchao_int8(dtype: DType) -> TorchAOInt8:
    """A cached format: all modules of a model share it."""
    return TorchAOInt8(dtype=dtype)
