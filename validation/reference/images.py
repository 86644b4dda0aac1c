"""Batches with images: the tensors that a model's processor makes, with the values that the model reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from calculator.estimation.estimate import model_of
from calculator.families import forward_of
from calculator.families.gemma4.processor import MOST_TOKENS, most_patches

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.request import Request
    from calculator.layers.tower import Processed
    from validation.tracing.host_values import HostValues


def image_of(request: Request) -> Processed:
    """Return an image of a request, as its processor passes it to the model."""
    model = model_of(request.model)
    tower = forward_of(model).tower
    assert tower is not None
    assert request.training.images is not None
    return tower.process(model.config, request.training.images)


def ordinary_token(config: Any) -> int:
    """Return a token that has no special meaning to a model: neither padding nor the place of an image."""
    text = config.get_text_config()
    special = {
        value
        for part in (config, text)
        for name, value in part.to_dict().items()
        if name.endswith(("_token_id", "_token_index", "_id")) and isinstance(value, int)
    }
    return next(token for token in range(len(special) + 1) if token not in special)


def token_ids(request: Request, config: Any) -> torch.Tensor:
    """Return the ids of a batch: each sequence begins with its images, each after another token, and ends with text."""
    training, image = request.training, image_of(request)
    assert training.images is not None
    ids = torch.full((training.micro_batch_size, training.sequence_length), ordinary_token(config))
    for number in range(training.images.images_per_sequence):
        start = number * image.length + 1
        ids[:, start : start + image.tokens] = config.image_token_id
    return ids


def image_tensors(request: Request, config: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that a batch has because of its images. Those whose values the model reads are on the host."""
    training, image = request.training, image_of(request)
    assert training.images is not None
    count = training.micro_batch_size * training.images.images_per_sequence
    tensors = _MAKERS[config.model_type](config, image, count, ids)
    if config.model_type == "llava_next":
        size = [training.images.image_height, training.images.image_width]
        tensors["image_sizes"] = torch.tensor([size] * count)
    return tensors


def known_batch(
    values: HostValues, request: Request, config: Any, input_ids: torch.Tensor, mask: torch.Tensor | None
) -> dict[str, torch.Tensor]:
    """Make the values of a batch on meta known to a trace; return what it has because of its images, also on meta."""
    ids = token_ids(request, config)
    values.know(input_ids, ids)
    if mask is not None:
        ones = torch.ones_like(ids)
        ones[:, -1] = 0
        values.know(mask, ones)
    batch = {}
    for name, host in image_tensors(request, config, ids).items():
        batch[name] = torch.empty_like(host, device="meta")
        if host.device.type != "meta":
            values.know(batch[name], host)
    return batch


def batch_on_host(request: Request, config: Any) -> dict[str, torch.Tensor]:
    """Return the tokens of a batch and what it has because of its images, as a processor returns them."""
    ids = token_ids(request, config)
    tensors = image_tensors(request, config, ids)
    return {"input_ids": ids} | {
        name: torch.zeros_like(tensor, device="cpu") if tensor.device.type == "meta" else tensor
        for name, tensor in tensors.items()
    }


def _qwen_inputs(config: Any, image: Processed, count: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    vision = config.vision_config
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    return {
        "pixel_values": torch.empty(count * image.patches, width, device="meta"),
        "image_grid_thw": torch.tensor([[1, image.rows, image.columns]] * count),
        "mm_token_type_ids": (ids == config.image_token_id).long(),
    }


def _gemma3_inputs(config: Any, image: Processed, count: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": _pixels(config, count),
        "token_type_ids": (ids == config.image_token_id).long(),
    }


def _gemma4_inputs(config: Any, image: Processed, count: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return patches, padded to the processor's number, with their columns and rows. Padding has -1."""
    patches = most_patches({"vision_config": config.vision_config.to_dict()})
    places = torch.full((count, patches, 2), -1)
    places[:, : image.patches, 0] = torch.arange(image.patches) % image.columns
    places[:, : image.patches, 1] = torch.arange(image.patches) // image.columns
    return {
        "pixel_values": torch.empty(count, patches, 3 * config.vision_config.patch_size**2, device="meta"),
        "image_position_ids": places,
        "mm_token_type_ids": (ids == config.image_token_id).long(),
    }


def _gemma4_unified_inputs(config: Any, image: Processed, count: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return patches of one token, padded to the processor's number, with their columns and rows. Padding has -1."""
    vision = config.vision_config
    places, columns = torch.full((count, MOST_TOKENS, 2), -1), image.columns // vision.pooling_kernel_size
    places[:, : image.tokens, 0] = torch.arange(image.tokens) % columns
    places[:, : image.tokens, 1] = torch.arange(image.tokens) // columns
    return {
        "pixel_values": torch.empty(count, MOST_TOKENS, 3 * vision.model_patch_size**2, device="meta"),
        "image_position_ids": places,
        "mm_token_type_ids": (ids == config.image_token_id).long(),
    }


def _llava_inputs(config: Any, image: Processed, count: int, _ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": _pixels(config, count)}


def _llava_next_inputs(config: Any, image: Processed, count: int, _ids: torch.Tensor) -> dict[str, torch.Tensor]:
    pixels = _pixels(config, count * image.tiles)
    return {"pixel_values": pixels.view(count, image.tiles, *pixels.shape[1:])}


def _internvl_inputs(config: Any, image: Processed, count: int, _ids: torch.Tensor) -> dict[str, torch.Tensor]:
    vision = config.vision_config
    return {"pixel_values": torch.empty(count * image.tiles, vision.num_channels, *vision.image_size, device="meta")}


def _idefics3_inputs(config: Any, image: Processed, count: int, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return tiles by sequences, with values that are not zero: the model leaves out tiles that are."""
    pixels = torch.ones_like(_pixels(config, count * image.tiles), device="cpu")
    pixels = pixels.view(ids.shape[0], -1, *pixels.shape[1:])
    return {"pixel_values": pixels, "pixel_attention_mask": torch.ones_like(pixels[:, :, 0], dtype=torch.long)}


def _pixels(config: Any, count: int) -> torch.Tensor:
    """Return images of the tower's size."""
    vision = config.vision_config
    return torch.empty(count, vision.num_channels, vision.image_size, vision.image_size, device="meta")


_MAKERS: dict[str, Callable[[Any, Processed, int, torch.Tensor], dict[str, torch.Tensor]]] = {
    "gemma3": _gemma3_inputs,
    "gemma4": _gemma4_inputs,
    "gemma4_unified": _gemma4_unified_inputs,
    "idefics3": _idefics3_inputs,
    "internvl": _internvl_inputs,
    "llava": _llava_inputs,
    "llava_next": _llava_next_inputs,
    "paligemma": _gemma3_inputs,
    "qwen2_5_vl": _qwen_inputs,
    "qwen2_vl": _qwen_inputs,
    "qwen3_5": _qwen_inputs,
    "qwen3_5_moe": _qwen_inputs,
    "qwen3_vl": _qwen_inputs,
    "qwen3_vl_moe": _qwen_inputs,
    "smolvlm": _idefics3_inputs,
}
