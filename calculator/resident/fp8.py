"""FP8's storage: one byte for each weight, with a scale for each block or for the whole weight."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class FP8Weight(StoredWeight):
    """The parameters of FP8Linear. Source: transformers 5.24, integrations/finegrained_fp8.py."""

    names_constants_after_it: ClassVar[bool] = False
    casts: ClassVar[Casts] = "sum"

    #: The dtype of the rest of the model.
    dtype: DType
    #: The numbers of outputs and inputs that share a scale. None for all.
    block: tuple[int, int] | None
    #: Whether a scale for the layer's input is stored.
    static: bool = False

    @property
    def bias_dtype(self) -> DType:
        """The dtype of the model, because biases are not quantized."""
        return self.dtype

    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the weight, one byte for each element."""
        return shape, "float8_e4m3fn"

    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the scales of blocks, and the scale of the input."""
        scales = () if self.block is None else tuple(map(_blocks, shape, self.block))
        constants: tuple[Constant, ...] = (("weight_scale_inv", scales, "float32"),)
        return (*constants, ("activation_scale", (), "float32")) if self.static else constants


def _blocks(side: int, block: int) -> int:
    return Dim(ceil(side / block), lambda: f"{dim_name(side)} / {block}")


@cache
def fp8_weight(dtype: DType, block: tuple[int, int] | None, *, static: bool) -> FP8Weight:
    """Return a cached format, which all modules of a model share."""
    return FP8Weight(dtype=dtype, block=block, static=static)
