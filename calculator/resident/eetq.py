"""EETQ's storage: weights in 8 bits, transposed, with a scale for each output."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from calculator.resident.stored_weight import StoredWeight

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.resident.stored_weight import Constant


@dataclass(frozen=True, slots=True, kw_only=True)
class EETQWeight(StoredWeight):
    """The parameters of EetqLinear. Source: transformers 5.24, integrations/eetq.py."""

    names_constants_after_it: ClassVar[bool] = False
    scales_after_cast: ClassVar[bool] = True

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the products."""
        return "float16"

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight, one byte for each element: (in_features, out_features)."""
        outputs, inputs = shape
        return (inputs, outputs), "int8"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the scale of each output."""
        return (("weight_scales", (shape[0],), "float16"),)


@cache
def eetq_weight() -> EETQWeight:
    """Return a cached format, which all modules of a model share."""
    return EETQWeight()
