"""LLaVA-NeXT: images in tiles of the tower's size. Their tokens are joined to rows that end with a newline token.

Source: transformers/models/llava_next/modeling_llava_next.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import named
from calculator.common.errors import refusal
from calculator.engine import operations as ops
from calculator.families.llava.forward import LLAVA, projected_features, scatter_image_tokens, with_outputs
from calculator.layers import image_encoder
from calculator.layers.decoder_forward import Tower
from calculator.layers.fixed_images import no_limits
from calculator.layers.tower import Processed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.architecture.config import Config
    from calculator.engine.tape import Tensor
    from calculator.inputs.images import Images
    from calculator.inputs.training import Training
    from calculator.layers.context import Context
    from calculator.layers.tower import BatchTensor


def usual_resolutions(_config: Config) -> tuple[tuple[int, int], ...]:
    """Return the resolutions of a file that sets none. Source: configuration_llava_next.py."""
    return ((336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008))


def best_resolution(height: int, width: int, resolutions: Iterable[Any]) -> tuple[int, int]:
    """Return the height and width that keep the most pixels of an image and waste the fewest.

    Source: transformers/image_processing_utils.py, select_best_resolution.
    """

    def kept_and_wasted(resolution: tuple[int, int]) -> tuple[int, int]:
        scale = min(resolution[1] / width, resolution[0] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    best: tuple[int, int] = max(((int(h), int(w)) for h, w in resolutions), key=kept_and_wasted)
    return best


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The patches of an image in tiles: those of all tiles together, and those that are not padding."""

    rows: int
    columns: int
    kept_rows: int
    kept_columns: int


def _grid(config: Config, images: Images) -> Grid:
    """Return the patches of an image, without the padding on two of its sides (unpad_image)."""
    vision = config["vision_config"]
    side, patches = int(vision["image_size"]), int(vision["image_size"]) // int(vision["patch_size"])
    original_height, original_width = images.image_height, images.image_width
    height, width = best_resolution(original_height, original_width, config["image_grid_pinpoints"])
    rows, columns = height // side * patches, width // side * patches
    if original_width / original_height > columns / rows:
        new = int(round(original_height * (columns / original_width), 7))
        return Grid(rows=rows, columns=columns, kept_rows=rows - (rows - new) // 2 * 2, kept_columns=columns)
    new = int(round(original_width * (rows / original_height), 7))
    return Grid(rows=rows, columns=columns, kept_rows=rows, kept_columns=columns - (columns - new) // 2 * 2)


def _process(config: Config, images: Images) -> Processed:
    """Resize an image to the best of some resolutions, pad it, and split it into tiles.

    A small version of the whole image is the first tile.

    Source: transformers/models/llava_next/processing_llava_next.py, _get_number_of_features.
    """
    no_limits(images)
    if config["vision_feature_select_strategy"] == "full":
        message = "must be default where there are images: transformers can't arrange CLIP's class tokens in tiles"
        raise refusal("model.config.vision_feature_select_strategy", message, "full")
    vision, grid = config["vision_config"], _grid(config, images)
    side, patches = int(vision["image_size"]), int(vision["image_size"]) // int(vision["patch_size"])
    height, width = grid.rows // patches * side, grid.columns // patches * side
    return Processed(
        height=height,
        width=width,
        rows=grid.rows,
        columns=grid.columns,
        tokens=patches**2 + grid.kept_rows * (grid.kept_columns + 1),
        tiles=1 + grid.rows * grid.columns // patches**2,
    )


def _batch(config: Config, training: Training, image: Processed) -> list[BatchTensor]:
    """Return the tensors that images add to a batch."""
    name, (_, *shape), dtype = image_encoder.pixels(config, training.image_count)
    number = named(training.image_count, "images")
    return [(name, (number, named(image.tiles, "tiles"), *shape), dtype), ("image_sizes", (number, 2), "int64")]


def _encode(context: Context) -> list[Tensor]:
    """Run the tower on all tiles, and return each image's tokens."""
    count, tiles = context.image_count, context.image.tiles
    context.set_scope("model: ")
    given = context.images[0]
    pixel_values = ops.cat((given,), (named(count * tiles, "tiles"), *given.shape[2:]), "pixel values of all tiles")
    projected = projected_features(context, pixel_values)
    context.set_scope("images: ")
    parts = ops.split(projected, [(tiles, *projected.shape[1:]) for _ in range(count)])
    del projected
    return with_outputs(context, [_packed(context, parts.pop(0)) for _ in range(count)])


def _packed(context: Context, image_feature: Tensor) -> Tensor:
    """Return the tokens of an image: those of the whole image, then the rows of the tiles (pack_image_features)."""
    assert context.training.images is not None
    grid = _grid(context.config, context.training.images)
    tiles, tokens, width = image_feature.shape
    base = ops.slice_from_end(image_feature, (tokens, width))
    rest = ops.slice_from_end(image_feature, (tiles - 1, tokens, width))
    rows = ops.contiguous(ops.permute(rest, (width, grid.rows, grid.columns)), "tokens, by channels")
    del rest, image_feature
    kept = ops.narrow(rows, (width, grid.kept_rows, grid.kept_columns))
    del rows
    newline = context.outer("model").own["image_newline"]
    ends = ops.expand(ops.view(newline, (width, 1, 1)), (width, grid.kept_rows, 1))
    ends = ops.cast(ends, kept.dtype, "new lines, cast")
    joined = ops.cat((kept, ends), (width, grid.kept_rows, grid.kept_columns + 1), "rows with new lines")
    del kept, ends
    row_tokens = grid.kept_rows * (grid.kept_columns + 1)
    return ops.cat((base, ops.view(joined, (row_tokens, width))), (tokens + row_tokens, width), "tokens of an image")


LLAVA_NEXT = replace(
    LLAVA,
    tower=Tower(
        process=_process,
        batch=_batch,
        kept=image_encoder.nothing_kept,
        encode=_encode,
        place=scatter_image_tokens,
        chunks=image_encoder.one_chunk,
        source="transformers/models/llava_next/processing_llava_next.py",
    ),
)
