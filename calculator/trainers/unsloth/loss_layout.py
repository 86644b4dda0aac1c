"""How the loss of Unsloth 2026.10 divides labeled tokens and the vocabulary.

Source: unsloth_zoo/fused_losses/fused_linear.py, fused_linear_rows, _tiled_layout, _flash_min_rows and _ce_impl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import Dim, named

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context

#: The most bytes of the logits of a chunk. It is half of the free memory, but no more than this.
BUDGET = 2 << 30

#: The logits of a chunk that make a product large enough, and the limits of its number of tokens.
LEAST_LOGITS, LEAST_ROWS, MOST_ROWS = 512 * 151936, 512, 4096

#: The columns of a split of the vocabulary, and the most splits that one pass over chunks reads at once.
SPLIT, MOST_UNSPLIT = 16384, 2

#: The least number of labeled tokens for which a GPU with more than 24.5 GiB has tiles.
TILED_ROWS = 4096

#: The bytes of a logit: products are in float32.
LOGIT = 4

#: The tokens of a chunk at the low end, at which almost no memory is free.
FEWEST = 2


def is_split(vocabulary: int) -> bool:
    """Return whether the statistics of a row's logits are computed in splits."""
    return -(-vocabulary // SPLIT) > MOST_UNSPLIT


def is_tiled(context: Context, weight: Tensor, count: Dim) -> bool:
    """Return whether the logits are computed in tiles, if the head is frozen and the vocabulary is large.

    GPUs with more than 24.5 GiB do so for 4,096 labeled tokens or more. GPUs without bfloat16 do not.
    Where it depends on the GPU, each end takes the way that needs less or more.
    """
    vocabulary, width = weight.shape
    if weight.edge is not None or not is_split(vocabulary):
        return False
    if count >= TILED_ROWS and context.training.dtype == "bfloat16":
        return True
    rows = chunk_rows(context, vocabulary, width, count)
    chunk_bytes = LOGIT * rows * (vocabulary + width * (2 if count > rows else 1))
    tile_bytes = LOGIT * tile_rows(context, count) * (SPLIT + width)
    return tile_bytes > chunk_bytes if context.training.is_highest else tile_bytes < chunk_bytes


def chunk_rows(context: Context, vocabulary: int, width: int, count: Dim) -> Dim:
    """Return the number of tokens of a chunk."""
    least = min(max(_power_of_two(LEAST_LOGITS / vocabulary), LEAST_ROWS), MOST_ROWS)
    rows = min(max(_power_of_two(count * width / vocabulary), least), MOST_ROWS)
    budget = BUDGET if context.training.is_highest else 1
    rows = min(rows, max(budget // (vocabulary * LOGIT), FEWEST))
    return count if rows >= count else named(rows, "chunk")


def tile_rows(context: Context, count: Dim) -> Dim:
    """Return the number of tokens of a tile, whose columns are those of a split.

    At the low end, almost no memory is free.
    """
    rows = min(MOST_ROWS, count) if context.training.is_highest else 1
    return count if rows == count else named(rows, "tile")


def _power_of_two(number: float) -> int:
    """Return the largest power of two that is not more than the number, or 0."""
    return 1 << (int(number).bit_length() - 1) if number >= 1 else 0
