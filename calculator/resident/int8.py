"""bitsandbytes' LLM.int8() storage: weights in 8 bits, with a scale for each output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from calculator.resident.stored_weight import StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8(StoredWeight):
    """LLM.int8() (Dettmers et al. 2022) as bitsandbytes.nn.Linear8bitLt stores it."""

    is_bitsandbytes: ClassVar[bool] = True

    #: The dtype of the inputs, to which biases are cast (Linear8bitLt.forward).
    compute_dtype: DType
    #: Whether the dense weight is (in_features, out_features), like Conv1D's.
    transposed: bool = False

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the inputs, to which the first run casts the bias.

        Source: bitsandbytes/nn/modules.py, Linear8bitLt.forward.
        """
        return self.compute_dtype

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight, one byte per element (bitsandbytes.nn.Int8Params)."""
        return shape, "int8"

    def constants(self, shape: Shape) -> tuple[tuple[str, Shape, DType], ...]:
        """Return the scale of each output."""
        return (("SCB", (shape[1 if self.transposed else 0],), "float32"),)


@cache
def eight_bits(compute_dtype: DType, *, transposed: bool = False) -> Int8:
    """Return a cached format, which all modules of a model share."""
    return Int8(compute_dtype=compute_dtype, transposed=transposed)
