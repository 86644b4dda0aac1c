"""The storage format of a frozen linear layer's weight that is not dense."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType

#: How PEFT's LoRA layer over the weight casts. sum: it always casts the input, and finally the sum, as over a dense
#: weight. sum_without_autocast: the same without autocast only. update: it casts the input and the update without
#: autocast only.
Casts = Literal["sum", "sum_without_autocast", "update"]

#: A further tensor of a weight: name, shape and dtype.
Constant = tuple[str, "Shape", "DType"]


class StoredWeight(ABC):
    """The format of a weight. Each subclass is one format of one library. All modules of a model share one object."""

    __slots__ = ()

    #: The name of the tensor that holds the weight, and whether its constants are named after it.
    tensor_name: ClassVar[str] = "weight"
    names_constants_after_it: ClassVar[bool] = True
    #: Whether the format belongs to bitsandbytes. Trainers prepare and cast such models.
    is_bitsandbytes: ClassVar[bool] = False
    #: Whether the checkpoint is quantized. Otherwise a dense weight is loaded and then quantized.
    is_in_checkpoint: ClassVar[bool] = False
    #: How PEFT's LoRA layer over the weight casts.
    casts: ClassVar[Casts] = "update"
    clones_output: ClassVar[bool] = False
    #: Whether PEFT's LoRA layer casts the update before it is scaled.
    scales_after_cast: ClassVar[bool] = False
    #: Whether PEFT's LoRA layer adds the update to the output in place.
    adds_in_place: ClassVar[bool] = False

    @property
    @abstractmethod
    def bias_dtype(self) -> DType:
        """The dtype of the layer's bias once the layer has run."""

    @abstractmethod
    def packed(self, shape: Shape) -> tuple[Shape, DType]:
        """Return the shape and dtype of the stored weight, from the shape of a dense weight."""

    @abstractmethod
    def constants(self, shape: Shape) -> tuple[Constant, ...]:
        """Return the further stored tensors: scales, zero points, indices."""
