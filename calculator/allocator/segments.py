"""The sizes of the blocks and segments of PyTorch's CUDA caching allocator.

Source: c10/core/AllocatorConfig.h for the constants; get_allocation_size in c10/cuda/CUDACachingAllocator.cpp.
"""

MIB = 1 << 20

#: The unit of block sizes in bytes: every size is a multiple of it (kMinBlockSize).
BLOCK = 512
#: The size of a segment for requests of 1 to 10 MiB (large_segment_size_, kLargeBuffer in older releases).
LARGE_SEGMENT = 20 * MIB
#: The largest request that shares a small segment (kSmallSize). The rest of a larger block is split off above this
#: size.
SMALL_REQUEST = 1 * MIB
#: The size of a segment for small requests (kSmallBuffer), and the unit of the largest segments (kRoundLarge).
SMALL_SEGMENT = 2 * MIB
#: The smallest request with a segment of its own (kMinLargeAlloc).
OWN_SEGMENT = 10 * MIB


def segment_bytes(size: int, large_segment: int = LARGE_SEGMENT) -> int:
    """Return the size of the segment for a request that no cached block serves (get_allocation_size).

    `size` is in bytes.
    """
    if size <= SMALL_REQUEST:
        return SMALL_SEGMENT
    if size < OWN_SEGMENT:
        return large_segment
    return -(-size // SMALL_SEGMENT) * SMALL_SEGMENT


def whole_pages(size: int) -> int:
    """Round bytes up to whole pages of 2 MiB, of which the driver builds every segment."""
    return -(-size // SMALL_SEGMENT) * SMALL_SEGMENT
