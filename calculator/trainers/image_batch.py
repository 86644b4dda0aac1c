"""The tensors that a batch has because of its images."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.families import forward_of

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.inputs.training import Training
    from calculator.layers.tower import BatchTensor


def shortest_prompt(model: Model, training: Training) -> int:
    """Return the tokens of the shortest prompt: one, and those of the images."""
    tower, images = forward_of(model).tower, training.images
    if tower is None or images is None or not training.has_images:
        return 1
    return 1 + images.images_per_sequence * tower.process(model.config, images).length


def tensors(model: Model, training: Training, sequences: int = 1) -> list[BatchTensor]:
    """Return the tensors of a batch in addition to its tokens, the pixels first. Without images there are none.

    `sequences` is the number of sequences in each row, each of which contains the row's images.
    """
    if not training.has_images:
        return []
    tower, images = forward_of(model).tower, training.images
    if tower is None or images is None:
        return []
    return tower.batch(model.config, training.by_sequences(sequences), tower.process(model.config, images))
