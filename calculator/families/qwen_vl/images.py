"""The resizing of images in the processors of Qwen 2.5 and 3 VL: multiples of a token's side, within limits of pixels.

Source: transformers/models/qwen2_vl/image_processing_qwen2_vl.py, smart_resize.
"""

from __future__ import annotations

from math import ceil, floor, sqrt
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem, refusal
from calculator.layers.tower import Processed

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.config import Config
    from calculator.inputs.images import Images

#: The largest ratio of the sides.
_MOST_STRETCHED = 200

#: The tokens around an image: vision_start and vision_end.
_AROUND = 2


def processor(min_pixels: int, max_pixels: int) -> Callable[[Config, Images], Processed]:
    """Return the processor whose checkpoints set these limits in preprocessor_config.json."""

    def process(config: Config, images: Images) -> Processed:
        vision = config["vision_config"]
        patch, merge = int(vision["patch_size"]), int(vision["spatial_merge_size"])
        least, most = images.min_pixels or min_pixels, images.max_pixels or max_pixels
        _check(images, least, most)
        height, width = smart_resize(images.image_height, images.image_width, patch * merge, least, most)
        rows, columns = height // patch, width // patch
        tokens = rows * columns // merge**2
        return Processed(height=height, width=width, rows=rows, columns=columns, tokens=tokens, around=_AROUND)

    return process


def _check(images: Images, least: int, most: int) -> None:
    """Raise an error for images that the processor refuses."""
    sides = sorted((images.image_height, images.image_width))
    if sides[1] / sides[0] > _MOST_STRETCHED:
        message = f"the processor refuses images whose sides differ by more than a factor of {_MOST_STRETCHED}"
        raise PlanError(Problem(loc="training.images.image_width", msg=message, input=images.image_width))
    if least > most:
        message = f"must be at most max_pixels, {most:,}"
        raise refusal("training.images.min_pixels", message, least)


def smart_resize(height: int, width: int, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """Return the height and width of the resized image, which are multiples of `factor`.

    Python rounds halves to even.
    """
    rounded_height, rounded_width = round(height / factor) * factor, round(width / factor) * factor
    if rounded_height * rounded_width > max_pixels:
        beta = sqrt((height * width) / max_pixels)
        return tuple(max(factor, floor(side / beta / factor) * factor) for side in (height, width))  # type: ignore[return-value]
    if rounded_height * rounded_width < min_pixels:
        beta = sqrt(min_pixels / (height * width))
        return tuple(ceil(side * beta / factor) * factor for side in (height, width))  # type: ignore[return-value]
    return rounded_height, rounded_width
