"""The data types that tensors are stored in, as PyTorch spells them."""

from typing import Literal

DType = Literal[
    "float64", "float32", "bfloat16", "float16", "float8_e4m3fn", "int64", "int32", "int16", "uint8", "int8", "bool"
]

#: Bytes per element.
#: Source: torch.dtype.itemsize.
ITEMSIZE: dict[DType, int] = {
    "float64": 8,
    "float32": 4,
    "bfloat16": 2,
    "float16": 2,
    "float8_e4m3fn": 1,
    "int64": 8,
    "int32": 4,
    "int16": 2,
    "uint8": 1,
    "int8": 1,
    "bool": 1,
}

#: The floating-point data types that mixed precision casts.
FLOATS = ("float32", "bfloat16", "float16")

#: The unit of the caching allocator in bytes.
#: Source: kMinBlockSize in c10/core/CachingDeviceAllocator.h.
ALLOCATION_ROUNDING = 512


def rounded(size: int) -> int:
    """Round a size in bytes up, as the caching allocator does."""
    return (size + ALLOCATION_ROUNDING - 1) // ALLOCATION_ROUNDING * ALLOCATION_ROUNDING


def allocated(elements: int, itemsize: int) -> int:
    """Return the bytes that the caching allocator allocates for a tensor with this many elements."""
    return (elements * itemsize + ALLOCATION_ROUNDING - 1) // ALLOCATION_ROUNDING * ALLOCATION_ROUNDING
