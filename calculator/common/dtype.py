"""The data types that tensors are stored in, as PyTorch spells them."""

from typing import Literal

DType = Literal["float64", "float32", "bfloat16", "float16", "int64", "int32", "uint8", "int8", "bool"]

#: Bytes an element. Source: torch.dtype.itemsize.
ITEMSIZE: dict[DType, int] = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "int64": 8,
    "int32": 4,
    "uint8": 1,
    "int8": 1,
    "bool": 1,
}

#: The caching allocator's rounding. Source: kMinBlockSize in c10/core/CachingDeviceAllocator.h.
ALLOCATION_ROUNDING = 512


def rounded(size: int) -> int:
    """A request's size as the caching allocator counts it, in bytes."""
    return (size + ALLOCATION_ROUNDING - 1) // ALLOCATION_ROUNDING * ALLOCATION_ROUNDING


def allocated(elements: int, itemsize: int) -> int:
    """What a tensor of so many elements takes, in bytes."""
    return rounded(elements * itemsize)
