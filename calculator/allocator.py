"""PyTorch's CUDA caching allocator: how many bytes it takes from the card for the tensors that it serves.

Requests are rounded up to 512 bytes. Those of up to 1 MiB are cut from segments of 2 MiB, those below 10 MiB from
segments of 20 MiB, and larger ones get a segment of their own, in whole 2 MiB. A freed block is merged with its free
neighbours in the segment and kept. A request takes the smallest kept block that holds it, the lowest of several, and
leaves the rest of it where that is worth keeping. A segment goes back to the card only when it is asked for, or when
the card is full, which is not modelled.

Source: c10/cuda/CUDACachingAllocator.cpp of PyTorch: get_pool, get_free_block, should_split, get_allocation_size,
try_merge_blocks, release_blocks, try_allocate_expandable_block; c10/core/AllocatorConfig.h for the sizes.
Where the driver puts a segment is not known; here each lies above those before it.
"""

from __future__ import annotations

from bisect import bisect_left, insort

MIB = 1 << 20

#: Every request is a multiple of it (kMinBlockSize).
BLOCK = 512
#: The largest request that is cut from a small segment (kSmallSize); a larger block's rest is kept if larger than this.
SMALL_REQUEST = 1 * MIB
#: A segment for small requests (kSmallBuffer), and the unit of the largest segments (kRoundLarge).
SMALL_SEGMENT = 2 * MIB
#: The smallest request with a segment of its own (kMinLargeAlloc).
OWN_SEGMENT = 10 * MIB
#: A segment for requests between the two (kLargeBuffer, large_segment_size).
LARGE_SEGMENT = 20 * MIB

#: A free block is one number, size · 2^48 + address, so that a sorted list is ordered by size, then address.
_SHIFT = 48
_ADDRESS = (1 << _SHIFT) - 1


def segment_bytes(size: int) -> int:
    """What is taken from the card for a request of `size` bytes that no kept block holds."""
    if size <= SMALL_REQUEST:
        return SMALL_SEGMENT
    if size < OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-size // SMALL_SEGMENT) * SMALL_SEGMENT


class Pool:
    """Blocks that only requests of one kind, small or large, are served from. All sizes are bytes, rounded to 512."""

    __slots__ = ("_ends", "_free", "_next", "_starts", "_taken", "largest_waste", "reserved", "segments")

    def __init__(self, largest_waste: int) -> None:
        self.largest_waste = largest_waste
        self.reserved = 0
        self.segments: dict[int, int] = {}
        self._next = BLOCK
        self._free: list[int] = []
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._taken: dict[int, int] = {}

    def allocate(self, size: int) -> int:
        """Serve a request, and say at which address."""
        free = self._free
        place = bisect_left(free, size << _SHIFT)
        if place < len(free):
            found = free.pop(place)
            address, found = found & _ADDRESS, found >> _SHIFT
            del self._starts[address]
            del self._ends[address + found]
        else:
            address, found = self._grown(size)
        if found - size > self.largest_waste:
            self._keep(address + size, found - size)
            found = size
        self._taken[address] = found
        return address

    def free(self, address: int) -> None:
        """Keep a block, merged with its free neighbours."""
        size = self._taken.pop(address)
        end = address + size
        behind = self._starts.pop(end, 0)
        if behind:
            self._drop(end, behind)
            size += behind
        before = self._ends.pop(address, None)
        if before is not None:
            ahead = self._starts.pop(before)
            del self._free[bisect_left(self._free, ahead << _SHIFT | before)]
            address, size = before, size + ahead
        self._keep(address, size)

    def _keep(self, address: int, size: int) -> None:
        insort(self._free, size << _SHIFT | address)
        self._starts[address] = size
        self._ends[address + size] = address

    def _drop(self, address: int, size: int) -> None:
        del self._free[bisect_left(self._free, size << _SHIFT | address)]
        del self._ends[address + size]

    def _grown(self, size: int) -> tuple[int, int]:
        """A new segment, apart from every other, so that blocks of two are never merged: its address and bytes."""
        taken = segment_bytes(size)
        address, self._next = self._next, self._next + taken + BLOCK
        self.segments[address] = taken
        self.reserved += taken
        return address, taken

    def release(self) -> None:
        """Give back the segments that are free from end to end (release_blocks, by torch.cuda.empty_cache)."""
        for address, size in list(self.segments.items()):
            if self._starts.get(address) == size:
                del self._starts[address]
                self._drop(address, size)
                del self.segments[address]
                self.reserved -= size


class ExpandablePool(Pool):
    """The same with one segment that grows by whole pages (expandable_segments:True)."""

    __slots__ = ("_page",)

    def __init__(self, page: int) -> None:
        super().__init__(largest_waste=0)
        self._page = page
        self._next = 0

    def allocate(self, size: int) -> int:
        """Serve a request; the block at the end of the segment, which can grow, counts as the largest of all."""
        free = self._free
        place = bisect_left(free, size << _SHIFT)
        if place + 1 == len(free) or place == len(free):
            return super().allocate(size)
        last = free[place]
        if (last & _ADDRESS) + (last >> _SHIFT) != self._next:
            return super().allocate(size)
        del free[place]
        address = super().allocate(size)
        insort(free, last)
        return address

    def _grown(self, size: int) -> tuple[int, int]:
        """The free block at the segment's end, if there is one, with as many new pages as the request needs."""
        address, held = self._next, 0
        if self._next in self._ends:
            address = self._ends.pop(self._next)
            held = self._starts.pop(address)
            del self._free[bisect_left(self._free, held << _SHIFT | address)]
        pages = -(-(size - held) // self._page) * self._page
        self._next += pages
        self.reserved += pages
        return address, held + pages


class CachingAllocator:
    """Small and large requests, each served from its own pool."""

    __slots__ = ("_most", "large", "small")

    def __init__(self, *, expandable_segments: bool = False) -> None:
        if expandable_segments:
            self.small: Pool = ExpandablePool(SMALL_SEGMENT)
            self.large: Pool = ExpandablePool(LARGE_SEGMENT)
        else:
            self.small = Pool(largest_waste=0)
            self.large = Pool(largest_waste=SMALL_REQUEST)
        self._most = 0

    @property
    def reserved(self) -> int:
        """What `torch.cuda.memory_reserved` reads, bytes."""
        return self.small.reserved + self.large.reserved

    @property
    def max_reserved(self) -> int:
        """What `torch.cuda.max_memory_reserved` reads, bytes: nothing but `empty_cache` lowers what is reserved."""
        return max(self._most, self.reserved)

    def pool(self, size: int) -> Pool:
        """The pool that serves requests of a size."""
        return self.small if size <= SMALL_REQUEST else self.large

    def allocate(self, size: int) -> tuple[Pool, int]:
        """Serve a request of any size: the pool that serves it, which is asked to free it again, and the address."""
        size = -(-size // BLOCK) * BLOCK
        pool = self.pool(size)
        return pool, pool.allocate(size)

    def empty_cache(self) -> None:
        """Give back every segment that is wholly free. An expandable segment keeps its pages: that is not modelled."""
        self._most = self.max_reserved
        self.small.release()
        self.large.release()
