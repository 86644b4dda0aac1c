"""torchao's storage of weights in 8 bits, integers or floats, with a scale for each output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from calculator.resident.stored_weight import Casts, Constant, StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchAO8Bit(StoredWeight):
    """A weight in 8 bits, with a scale for each output."""

    casts: ClassVar[Casts] = "sum"
    #: The dtype of the stored weight.
    stored: ClassVar[DType]

    #: The dtype of the dense weight that it stands for.
    dtype: DType

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the model, because biases are not quantized."""
        return self.dtype

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight, one byte per element."""
        return shape, self.stored

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the scale of each output."""
        return (("scale", (shape[0], 1), "float32"),)


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchAOInt8(TorchAO8Bit):
    """Int8Tensor (Int8WeightOnlyConfig). Source: torchao 0.18, quantization/quantize_/workflows/int8/int8_tensor.py."""

    stored: ClassVar[DType] = "int8"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchAOFloat8(TorchAO8Bit):
    """Float8Tensor (Float8WeightOnlyConfig).

    Source: torchao 0.18, quantization/quantize_/workflows/float8/float8_tensor.py.
    """

    stored: ClassVar[DType] = "float8_e4m3fn"


@cache
def torchao_int8(dtype: DType) -> TorchAOInt8:
    """Return a cached format, which all modules of a model share."""
    return TorchAOInt8(dtype=dtype)


@cache
def torchao_float8(dtype: DType) -> TorchAOFloat8:
    """Return a cached format, which all modules of a model share."""
    return TorchAOFloat8(dtype=dtype)
