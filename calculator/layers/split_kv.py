"""Flash attention whose keys are split over the multiprocessors: the results that it accumulates in float32."""

from __future__ import annotations

from array import array
from functools import lru_cache
from typing import TYPE_CHECKING

from calculator.architecture.dimension import ceil_div, named

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor

#: The name of the accumulated outputs.
SPLITS = "output of splits"

#: The queries of a block, the most parts, and the share of the best efficiency that is enough.
_QUERIES, _MOST_SPLITS, _ENOUGH = 64, 128, 0.85
#: The share of the multiprocessors that is busy enough without a split, as a fraction.
_BUSY = (4, 5)
#: The blocks of 128 threads that a multiprocessor runs at a time.
_BLOCKS = 2


def accumulators(query: Tensor, key: Tensor, width: int) -> list[Tensor]:
    """Return a log-sum-exp and an output of each part of the keys, for padded heads. Without a split there are none.

    Source: aten/src/ATen/native/transformers/cuda/flash_attn/flash_api.cpp, set_params_splitkv.
    """
    tape, (batch, heads, length, head_dim) = query.tape, query.shape
    count = splits(batch * heads, length, key.shape[2], head_dim, tape.multiprocessors.count)
    if count == 1:
        return []
    parts = named(count, "splits")
    logsumexp = tape.scratch((parts, batch, heads, length), "float32", "flash attention: logsumexp of splits")
    out = tape.scratch((parts, batch, heads, length, width), "float32", f"flash attention: {SPLITS}")
    return [out, logsumexp]  # a list frees its last element first


def splits(heads: int, length: int, keys: int, head_dim: int, multiprocessors: int) -> int:
    """Return the number of parts of the keys, for the heads of all sequences. 1 if they are not split."""
    slots, blocks = multiprocessors * _BLOCKS, heads * ceil_div(length, _QUERIES)
    if blocks * _BUSY[1] >= slots * _BUSY[0]:
        return 1
    return num_splits(int(blocks), slots, int(ceil_div(keys, _keys_of_block(head_dim))))


def _keys_of_block(head_dim: int) -> int:
    if head_dim <= 64:
        return 256
    return 128 if head_dim <= 128 else 64


@lru_cache(maxsize=1024)
def num_splits(blocks: int, slots: int, key_blocks: int) -> int:
    """Return the smallest number of parts with nearly the best share of busy multiprocessors (num_splits_heuristic)."""
    counts = range(1, min(_MOST_SPLITS, slots, key_blocks) + 1)
    eligible = [n for n in counts if n == 1 or ceil_div(key_blocks, n) != ceil_div(key_blocks, n - 1)]
    efficiency = [_efficiency(blocks * n, slots) for n in eligible]
    enough = _ENOUGH * max(efficiency, default=0.0)
    return next((n for n, share in zip(eligible, efficiency, strict=True) if share >= enough), 1)


def _efficiency(blocks: int, slots: int) -> float:
    """Return the share of busy multiprocessors, in single precision as the kernel computes it."""
    (waves,) = array("f", [blocks / slots])
    (share,) = array("f", [waves / ceil_div(blocks, slots)])
    return share
