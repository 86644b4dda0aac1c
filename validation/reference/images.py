"""Batches with images: the tensors that a model's processor makes, with the values that the model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from calculator.estimation.estimate import model_of
from calculator.families import forward_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.request import Request
    from calculator.layers.tower import Processed


def image_of(request: Request) -> Processed:
    """An image of a request, as its processor passes it to the model."""
    model = model_of(request.model)
    tower = forward_of(model).tower
    assert tower is not None
    assert request.training.images is not None
    return tower.process(model.config, request.training.images)


def token_ids(request: Request, config: Any, ordinary: int) -> torch.Tensor:
    """The ids of a batch: each sequence begins with its images, each after another token, and ends with text."""
    training, image = request.training, image_of(request)
    assert training.images is not None
    ids = torch.full((training.micro_batch_size, training.sequence_length), ordinary)
    for number in range(training.images.images_per_sequence):
        start = number * (image.tokens + image.around) + 1
        ids[:, start : start + image.tokens] = config.image_token_id
    return ids


def image_tensors(request: Request, config: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors that a batch has because of its images. Those whose values the model reads are on the host."""
    training, image = request.training, image_of(request)
    assert training.images is not None
    count = training.micro_batch_size * training.images.images_per_sequence
    return _MAKERS[config.model_type](config, image, count, ids)


def _of_qwen(config: Any, image: Processed, count: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    vision = config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.empty(count * image.patches, width, device="meta"),
        "image_grid_thw": torch.tensor([[1, image.rows, image.columns]] * count),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
    }


def _of_gemma3(config: Any, image: Processed, count: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": _pixels(config, image, count),
        "token_type_ids": (ids == config.image_token_id).long(),
    }


def _pixels(config: Any, image: Processed, count: int) -> torch.Tensor:
    """Images of one size."""
    return torch.empty(count, config.vision_config.num_channels, image.height, image.width, device="meta")


_MAKERS: dict[str, Callable[[Any, Processed, int, torch.Tensor], dict[str, torch.Tensor]]] = {
    "gemma3": _of_gemma3,
    "qwen2_5_vl": _of_qwen,
    "qwen3_vl": _of_qwen,
}
