"""The resizing of images in Gemma 4's processor, which keeps the proportions within a number of patches.

Source: transformers/models/gemma4/image_processing_gemma4.py, get_aspect_ratio_preserving_size.
"""

from __future__ import annotations

from math import floor, sqrt
from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.layers.fixed_images import no_limits
from calculator.layers.tower import Processed

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.common.errors import PlanError
    from calculator.inputs.images import Images

#: The largest number of tokens of an image, to which the processor pads every image.
#: Source: image_processing_gemma4.py, Gemma4ImageProcessor.max_soft_tokens.
MOST_TOKENS = 280

#: The tokens around an image: its start and its end.
_AROUND = 2


def most_patches(config: Config) -> int:
    """Return the number of patches to which every image is padded."""
    return MOST_TOKENS * int(config["vision_config"]["pooling_kernel_size"]) ** 2


def process(config: Config, images: Images) -> Processed:
    """Return the resized image. Raise an error if the tower can't pool it or lacks positions for it."""
    image, vision = _fitted(config, images), config["vision_config"]
    if vision["pooling_kernel_size"] == 1:
        message = "transformers fails where patches are not pooled, since it then selects the padding: use 2 or more"
        raise refusal("model.config.vision_config.pooling_kernel_size", message, 1)
    if max(image.rows, image.columns) > vision["position_embedding_size"]:
        raise _without_positions("position_embedding_size", max(image.rows, image.columns))
    return image


def process_unified(config: Config, images: Images) -> Processed:
    """Return the resized image for the model without a tower. Its patches have the size of a token."""
    image, vision = _fitted(config, images), config["vision_config"]
    longest = max(image.rows, image.columns) // int(vision["pooling_kernel_size"])
    if longest > vision["mm_posemb_size"]:
        raise _without_positions("mm_posemb_size", longest)
    return image


def _without_positions(field: str, patches: int) -> PlanError:
    message = f"an image has {patches:,} patches in a row, for which there are no positions: raise it"
    return refusal(f"model.config.vision_config.{field}", message)


def _fitted(config: Config, images: Images) -> Processed:
    """Return the largest size in multiples of a token's side that keeps the proportions."""
    vision = config["vision_config"]
    if vision is None:
        message = "the config has no vision_config, so the model does not read images: leave images out"
        raise refusal("training.images", message, images.images_per_sequence)
    no_limits(images)
    patch, pool = int(vision["patch_size"]), int(vision["pooling_kernel_size"])
    side, room = patch * pool, most_patches(config) * patch**2
    height, width = _resized(images, side, room)
    if height * width > room:
        message = f"the processor refuses an image that it would resize to {height:,} × {width:,}: change its size"
        raise refusal("training.images.image_height", message, images.image_height)
    rows, columns = height // patch, width // patch
    tokens = rows * columns // pool**2
    return Processed(height=height, width=width, rows=rows, columns=columns, tokens=tokens, around=_AROUND)


def _resized(images: Images, side: int, room: int) -> tuple[int, int]:
    height, width = images.image_height, images.image_width
    factor = sqrt(room / (height * width))
    rows, columns = floor(factor * height / side), floor(factor * width / side)
    if rows == columns == 0:
        message = "the processor refuses to make an image of no pixels: change its size"
        raise refusal("training.images.image_height", message, height)
    if rows == 0:
        return side, min(width // height, MOST_TOKENS) * side
    if columns == 0:
        return min(height // width, MOST_TOKENS) * side, side
    return rows * side, columns * side
