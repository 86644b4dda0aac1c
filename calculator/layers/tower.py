"""An image after its processor, and the tensors that a batch has because of images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.architecture.dimension import named

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.inputs.training import Training

    #: A tensor of a batch: its name, shape and dtype.
    BatchTensor = tuple[str, Shape, DType]


@dataclass(frozen=True, slots=True, kw_only=True)
class Processed:
    """An image as the processor passes it to the model."""

    #: The number of pixels after the processor has resized it.
    height: int
    width: int
    #: The number of patches, from top to bottom and from left to right.
    rows: int
    columns: int
    #: The number of placeholders in the sequence. The tower's output replaces each of them.
    tokens: int
    #: The number of further tokens in the sequence, before, between and after the placeholders.
    around: int = 0

    #: The number of images of the tower's own size that it is cut into, including a small one of the whole.
    tiles: int = 1

    @property
    def length(self) -> int:
        """The number of tokens that an image adds to a sequence."""
        return self.tokens + self.around

    @property
    def patches(self) -> int:
        """The number of patches."""
        return self.rows * self.columns


def token_types(name: str, training: Training) -> BatchTensor:
    """Return the tensor that distinguishes tokens of images from tokens of text."""
    return name, (named(training.micro_batch_size, "B"), named(training.sequence_length, "S")), "int64"
