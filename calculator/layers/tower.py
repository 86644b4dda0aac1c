"""What a processor makes of an image, and the tensors that a batch has because of images."""

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

    #: Pixels, after the processor has resized it.
    height: int
    width: int
    #: Patches, from top to bottom and from left to right.
    rows: int
    columns: int
    #: Placeholders in the sequence, each of which the tower's output takes the place of.
    tokens: int
    #: Further tokens in the sequence, before, between and after the placeholders.
    around: int = 0

    #: The images of the tower's own size that it is cut into, a small one of the whole among them.
    tiles: int = 1

    @property
    def length(self) -> int:
        """The tokens of a sequence that are because of the image."""
        return self.tokens + self.around

    @property
    def patches(self) -> int:
        """The number of patches."""
        return self.rows * self.columns


def token_types(name: str, training: Training) -> BatchTensor:
    """Return the tensor that tells the tokens of images from those of text."""
    return name, (named(training.micro_batch_size, "B"), named(training.sequence_length, "S")), "int64"
