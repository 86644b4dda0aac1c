"""The operations that added parameters cost, and the tensors that merging them allocates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: A tensor that merging allocates: its name, shape and dtype.
Allocated = tuple[str, "Shape", "DType"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherOperations:
    """A token's operations that are not matrix products: their formula, and their number."""

    formula: str = ""
    count: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeStep:
    """Merging one module."""

    #: The tensors that are alive at the peak in addition to the model.
    allocated: tuple[Allocated, ...]
    #: The loss of precision of the merged weight, in words.
    loss: str
    source: str
