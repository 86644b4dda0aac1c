"""The split of images into tiles of the tower's size in InternVL's processor.

Source: transformers/models/got_ocr2/image_processing_got_ocr2.py; internvl/processing_internvl.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import refusal
from calculator.layers.fixed_images import no_limits
from calculator.layers.tower import Processed

if TYPE_CHECKING:
    from calculator.architecture.config import Config
    from calculator.inputs.images import Images

#: The largest number of tiles of an image, without the tile of the whole image (GotOcr2ImageProcessor.max_patches).
_MOST = 12

#: The tokens around an image: its start and its end.
_AROUND = 2


def process(config: Config, images: Images) -> Processed:
    """Resize an image to tiles of similar proportions. If there are several, a small version of the image follows."""
    no_limits(images)
    if config["vision_feature_select_strategy"] == "full":
        message = "must be default where there are images: transformers can't shuffle the class token"
        raise refusal("model.config.vision_feature_select_strategy", message, "full")
    vision, ratio = config["vision_config"], config["downsample_ratio"]
    side, patches = int(vision["image_size"]), int(vision["image_size"]) // int(vision["patch_size"])
    if vision["use_mask_token"]:
        message = "must be false if there are images: a token that no patch is replaced by is not modeled"
        raise refusal("model.config.vision_config.use_mask_token", message, value=True)
    if patches % ratio:
        message = f"transformers refuses it, since {patches:,} % {ratio} is not 0 in floating point: use 0.5 or 1"
        raise refusal("model.config.downsample_ratio", message, ratio)
    columns, rows = _grid(images.image_height, images.image_width, side)
    tiles = rows * columns + (rows * columns > 1)
    return Processed(
        height=rows * side,
        width=columns * side,
        rows=rows * patches,
        columns=columns * patches,
        tokens=tiles * int(patches * ratio) ** 2,
        around=_AROUND,
        tiles=tiles,
    )


def _grid(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the number of columns and rows of tiles (get_optimal_tiled_canvas).

    Among grids of the same proportions, the larger one is chosen if the image has more than half of its pixels.
    """
    grids = [(w, h) for w in range(1, _MOST + 1) for h in range(1, _MOST + 1) if w * h <= _MOST]
    best, smallest = (1, 1), float("inf")
    for columns, rows in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        difference = abs(width / height - columns / rows)
        fills = width * height > 0.5 * side * side * columns * rows
        if difference < smallest or (difference == smallest and fills):
            best, smallest = (columns, rows), difference
    return best
