"""AQLM's storage: codes that refer to vectors of code books, and a scale for each output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from calculator.architecture.dimension import Dim, dim_name
from calculator.resident.stored_weight import StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.resident.stored_weight import Constant

#: The number of inputs that one code stands for.
GROUP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class AQLMWeight(StoredWeight):
    """The parameters of QuantizedLinear. Source: aqlm 1.1.7, inference.py."""

    tensor_name: ClassVar[str] = "codes"
    names_constants_after_it: ClassVar[bool] = False
    is_in_checkpoint: ClassVar[bool] = True
    scales_after_cast: ClassVar[bool] = True
    adds_in_place: ClassVar[bool] = True

    #: The dtype of code books, scales and products.
    dtype: DType
    codebooks: int
    bits: int

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the products."""
        return self.dtype

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the codes: (out_features, in_features / 8, num_codebooks)."""
        outputs, inputs = shape
        groups = Dim(inputs // GROUP, lambda: f"{dim_name(inputs)} / {GROUP}")
        return (outputs, groups, self.codebooks), "int8" if self.bits <= 8 else "int16"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the code books of the layer, and the scale of each output."""
        return (
            ("codebooks", (self.codebooks, 2**self.bits, 1, GROUP), self.dtype),
            ("scales", (shape[0], 1, 1, 1), self.dtype),
        )


@cache
def aqlm_weight(dtype: DType, codebooks: int, bits: int) -> AQLMWeight:
    """Return a cached format, which all modules of a model share."""
    return AQLMWeight(dtype=dtype, codebooks=codebooks, bits=bits)
