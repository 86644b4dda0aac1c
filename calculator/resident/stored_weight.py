"""How the weight of a frozen linear layer is stored, where it is not dense."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: How PEFT's LoRA layer over the weight casts: the input always and the sum last (sum), as over a dense weight; the
#: same without autocast only (sum_without_autocast); the input and the update without autocast only (update).
Casts = Literal["sum", "sum_without_autocast", "update"]

#: A further tensor of a weight: name, shape and dtype.
Constant = tuple[str, "Shape", "DType"]


class StoredWeight(ABC):
    """The format of a weight. Each subclass is one format of one library; all modules of a model share one value."""

    __slots__ = ()

    #: The name of the tensor that holds the weight, and whether its constants are named after it.
    tensor_name: ClassVar[str] = "weight"
    names_constants_after_it: ClassVar[bool] = True
    #: Whether it is bitsandbytes', whose models trainers prepare and cast.
    of_bitsandbytes: ClassVar[bool] = False
    #: Whether the checkpoint is quantized; otherwise a dense weight is loaded and then quantized.
    is_in_checkpoint: ClassVar[bool] = False
    #: What PEFT's LoRA layer over it does.
    casts: ClassVar[Casts] = "update"
    clones_output: ClassVar[bool] = False
    #: Whether that casts the update before it is scaled.
    scales_after_cast: ClassVar[bool] = False
    #: Whether that adds the update to the output in place.
    adds_in_place: ClassVar[bool] = False

    @property
    @abstractmethod
    def bias_dtype(self) -> DType:
        """The dtype of the layer's bias once the layer has run."""

    @abstractmethod
    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """The shape and dtype of the stored weight of a dense one's shape."""

    @abstractmethod
    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """What else is stored: scales, zero points, indices."""
