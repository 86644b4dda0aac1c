"""AWQ's storage (GEMM): weights packed into 32-bit integers by outputs, with scales and zero points of groups."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import Dim, dim_name
from calculator.resident.stored_weight import Constant, StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: The number of 4-bit weights in a 32-bit integer.
IN_A_WORD = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AWQWeight(StoredWeight):
    """The buffers of gptqmodel's AwqGEMMLinear.

    Source: gptqmodel 7.7.0, nn_modules/qlinear/__init__.py, AWQuantLinear.
    """

    tensor_name: ClassVar[str] = "qweight"
    names_constants_after_it: ClassVar[bool] = False
    is_in_checkpoint: ClassVar[bool] = True
    scales_after_cast: ClassVar[bool] = True

    #: The dtype of the product, to which the first run casts scales and bias (_ensure_runtime_dtype).
    compute_dtype: DType
    #: The number of inputs that share a scale. None for all.
    group_size: int | None

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the product."""
        return self.compute_dtype

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight: (in_features, out_features / 8)."""
        outputs, inputs = shape
        return (inputs, Dim(ceil(outputs / IN_A_WORD), lambda: f"{dim_name(outputs)} / {IN_A_WORD}")), "int32"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the zero points and scales."""
        outputs, inputs = shape
        size = self.group_size
        groups = 1 if size is None else Dim(ceil(inputs / size), lambda: f"{dim_name(inputs)} / {size}")
        words = Dim(ceil(outputs / IN_A_WORD), lambda: f"{dim_name(outputs)} / {IN_A_WORD}")
        return ("qzeros", (groups, words), "int32"), ("scales", (groups, outputs), self.compute_dtype)


@cache
def awq_weight(compute_dtype: DType, group_size: int | None) -> AWQWeight:
    """Return a cached format, which all modules of a model share."""
    return AWQWeight(compute_dtype=compute_dtype, group_size=group_size)
