"""HQQ's storage: rows of packed integers, one row for each group of inputs, with a scale and a zero point for each."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import Dim, dim_name
from calculator.resident.stored_weight import Casts, Constant, StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: By number of bits, the rows of integers in one packed row. Source: hqq 0.2.8, core/bitpack.py.
PACKED_ROWS = {8: 1, 4: 2, 3: 10, 2: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class HQQWeight(StoredWeight):
    """The tensors of HQQLinear. Source: hqq 0.2.8, core/quantize.py, Quantizer.quantize with axis 1."""

    tensor_name: ClassVar[str] = "W_q"
    names_constants_after_it: ClassVar[bool] = False
    casts: ClassVar[Casts] = "sum_without_autocast"

    #: The dtype of the product, of scales and of zero points.
    compute_dtype: DType
    bits: int
    #: The number of inputs that share a scale. None for all.
    group_size: int | None

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the product."""
        return self.compute_dtype

    def groups(self, shape: Shape) -> tuple[int, int]:
        """Return the number of groups of a weight, and the number of elements of each."""
        outputs, inputs = shape
        if self.group_size is None:
            return outputs, inputs
        size = self.group_size
        return Dim(outputs * inputs // size, lambda: f"{dim_name(outputs)} · {dim_name(inputs)} / {size}"), size

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight. A row contains the groups that are packed together."""
        rows, size = self.groups(shape)
        together = PACKED_ROWS[self.bits]
        packed = rows if together == 1 else Dim(ceil(rows / together), lambda: f"{dim_name(rows)} / {together}")
        return (packed, size), "int32" if self.bits == 3 else "uint8"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the scale and the zero point of each group."""
        rows = self.groups(shape)[0]
        return ("meta.scale", (rows, 1), self.compute_dtype), ("meta.zero", (rows, 1), self.compute_dtype)


@cache
def hqq_weight(compute_dtype: DType, bits: int, group_size: int | None) -> HQQWeight:
    """Return a cached format, which all modules of a model share."""
    return HQQWeight(compute_dtype=compute_dtype, bits=bits, group_size=group_size)
