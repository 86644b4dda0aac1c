"""The temporaries of sorts on CUDA, and of the gradient of indexing, whose equal indices are sorted and added up.

Source: aten/src/ATen/native/cuda/Indexing.cu, index_put_with_sort_kernel; Sort.cpp, sort_cuda_kernel; SortStable.cu,
segmented_sort_large_segments; cub/device/dispatch/dispatch_radix_sort.cuh.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import ceil_div

if TYPE_CHECKING:
    from calculator.engine.tape import Tape

#: Up to this many pairs of 64-bit numbers are sorted without a workspace, and the pairs that a block of a larger sort
#: has, by the first compute capability. Source: cub/device/dispatch/tuning/tuning_radix_sort.cuh.
_SINGLE_TILE = 2304
_TILES = (((9, 0), 384 * 12), ((8, 0), 384 * 10), ((0, 0), 256 * 11))
#: The digits of a pass, the bytes of its bins and of the histograms of a block, and of alignment.
_DIGIT, _BINS, _HISTOGRAMS, _ALIGNED = 1 << 8, 2048, 1024, 256
#: The passes that sort all digits of a 64-bit number.
_ALL_DIGITS = 8
#: Up to this many numbers are sorted in place. Source: aten/src/ATen/native/cuda/Sort.h, should_use_small_sort.
_IN_PLACE = 4096


def sort(tape: Tape, count: int) -> None:
    """Allocate and free what torch.sort needs for 64-bit numbers, while its results exist."""
    _order = tape.scratch((count,), "int64", "order before the sort")
    if count > _IN_PLACE:
        size = _workspace_bytes(count, _ALL_DIGITS, tape.capability)
        _workspace = tape.scratch((size,), "uint8", "workspace of the sort")


def add_rows_of_equal_indices(tape: Tape, indices: int, rows: int) -> None:
    """Allocate and free what sorts indices of rows, while the zeros exist to which their gradients are added."""
    wrapped = tape.scratch((indices,), "int64", "indices of the gradient, wrapped")
    _indices = tape.scratch((indices,), "int64", "indices of the gradient")
    del wrapped
    names = ("order", "indices, sorted", "numbers")
    _sorted = [tape.scratch((indices,), "int64", f"{name} of the gradient") for name in names]
    _workspace = tape.scratch((sort_bytes(indices, rows, tape.capability),), "uint8", "workspace of the sort")


def sort_bytes(pairs: int, largest: int, capability: tuple[int, int]) -> int:
    """Return the bytes with which cub sorts pairs of 64-bit numbers, by keys that are smaller than `largest`."""
    if pairs <= _SINGLE_TILE:
        return 1
    return _workspace_bytes(pairs, 1 + sum(largest > _DIGIT**digits for digits in (1, 2, 3)), capability)


def _workspace_bytes(pairs: int, passes: int, capability: tuple[int, int]) -> int:
    """Return the bytes with which cub sorts pairs in some passes, in more than one block."""
    tile = next(size for first, size in _TILES if capability >= first)
    buffer = ceil_div(pairs * 8, _ALIGNED) * _ALIGNED if passes > 1 else 0
    # The pointer is aligned, too.
    return 2 * buffer + passes * _BINS + ceil_div(pairs, tile) * _HISTOGRAMS + 2 * _ALIGNED - 1
