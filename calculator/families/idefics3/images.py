"""The processors of Idefics 3 and SmolVLM, which enlarge images and split them into tiles of the tower's size.

Source: transformers/models/idefics3/image_processing_pil_idefics3.py and processing_idefics3.py.
"""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from calculator.layers.fixed_images import no_limits
from calculator.layers.tower import Processed

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.inputs.images import Images

#: The number of tiles along the longer side: size and max_image_size in the checkpoints' preprocessor_config.json.
_LONGEST = 4

#: The largest side in pixels.
#: Source: image_processing_pil_idefics3.py, MAX_IMAGE_SIZE.
_MOST = 4096


def process(config: Config, images: Images) -> Processed:
    """Resize an image to four tiles along the longer side and split it. A small version of the whole image follows.

    If the tokenizer has tokens for the positions of tiles, as SmolVLM's has, the tokens of a tile follow two others.
    Each row of tiles ends with a line break, and the image with one more token.
    """
    no_limits(images)
    side, patch = int(config["vision_config"]["image_size"]), int(config["vision_config"]["patch_size"])
    height, width = _split(*_limited(*_enlarged(images.image_height, images.image_width, _LONGEST * side)), side)
    rows, columns = height // side, width // side
    tiles, patches = rows * columns + 1, side // patch
    return Processed(
        height=height,
        width=width,
        rows=rows * patches,
        columns=columns * patches,
        tokens=tiles * (patches // int(config["scale_factor"])) ** 2,
        around=2 * tiles + rows + 1,
        tiles=tiles,
    )


def _enlarged(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return the size with the longer side `longest` and the other side even and in proportion.

    Source: _resize_output_size_rescale_to_max_len.
    """
    ratio = width / height
    if width >= height:
        other = int(longest / ratio)
        return max(other + other % 2, 1), longest
    other = int(longest * ratio)
    return longest, max(other + other % 2, 1)


def _limited(height: int, width: int) -> tuple[int, int]:
    """Return the size, reduced to at most 4,096 pixels a side. Source: _resize_output_size_scale_below_upper_bound."""
    ratio = width / height
    if width >= height and width > _MOST:
        return max(int(_MOST / ratio), 1), _MOST
    if height > width and height > _MOST:
        return _MOST, max(int(_MOST * ratio), 1)
    return height, width


def _split(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the size rounded up to whole tiles (resize_for_vision_encoder)."""
    ratio = width / height
    if width >= height:
        width = ceil(width / side) * side
        return ceil(int(width / ratio) / side) * side, width
    height = ceil(height / side) * side
    return height, ceil(int(height * ratio) / side) * side
