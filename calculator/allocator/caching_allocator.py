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

#: A free block's key is one number, size · 2^128 + address, so that a sorted list is ordered by size, then address.
#: No address of the largest plan that may be asked for comes near 2^128.
_SHIFT = 128
_ADDRESS = (1 << _SHIFT) - 1


def segment_bytes(size: int) -> int:
    """What is taken from the card for a request of `size` bytes that no kept block holds."""
    if size <= SMALL_REQUEST:
        return SMALL_SEGMENT
    if size < OWN_SEGMENT:
        return LARGE_SEGMENT
    return -(-size // SMALL_SEGMENT) * SMALL_SEGMENT


class Block:
    """A part of a segment, in use or free, and the parts before and behind it there. Sizes and addresses are bytes."""

    __slots__ = ("address", "before", "behind", "is_free", "size")

    def __init__(self, address: int, size: int, before: Block | None = None, behind: Block | None = None) -> None:
        self.address = address
        self.size = size
        self.before = before
        self.behind = behind
        self.is_free = False


class Pool:
    """Blocks that only requests of one kind, small or large, are served from. All sizes are rounded to 512 bytes."""

    __slots__ = ("_blocks", "_free", "_next", "largest_waste", "reserved", "segments")

    def __init__(self, largest_waste: int) -> None:
        self.largest_waste = largest_waste
        self.reserved = 0
        self.segments: dict[int, int] = {}
        self._next = BLOCK
        #: The keys of free blocks, and the block that begins at each address, free ones at least.
        self._free: list[int] = []
        self._blocks: dict[int, Block] = {}

    def allocate(self, size: int) -> Block:
        """Serve a request."""
        free = self._free
        place = bisect_left(free, size << _SHIFT)
        block = self._blocks[free.pop(place) & _ADDRESS] if place < len(free) else self._grown(size)
        block.is_free = False
        if block.size - size > self.largest_waste:
            self._split(block, size)
        return block

    def free(self, block: Block) -> None:
        """Keep a block, merged with its free neighbours."""
        behind = block.behind
        if behind is not None and behind.is_free:
            self._drop(behind)
            self._merge(block, behind)
        before = block.before
        if before is not None and before.is_free:
            self._drop(before)
            self._merge(before, block)
            block = before
        block.is_free = True
        insort(self._free, block.size << _SHIFT | block.address)

    def _split(self, block: Block, size: int) -> None:
        """Leave a block so much, and keep the rest."""
        address = block.address + size
        rest = Block(address, block.size - size, block, block.behind)
        rest.is_free = True
        if block.behind is not None:
            block.behind.before = rest
        block.behind, block.size = rest, size
        self._blocks[address] = rest
        insort(self._free, rest.size << _SHIFT | address)

    @staticmethod
    def _merge(block: Block, behind: Block) -> None:
        block.size += behind.size
        block.behind = behind.behind
        if behind.behind is not None:
            behind.behind.before = block

    def _drop(self, block: Block) -> None:
        """Take a block off the free ones."""
        del self._free[bisect_left(self._free, block.size << _SHIFT | block.address)]

    def _grown(self, size: int) -> Block:
        """A new segment, apart from every other, so that blocks of two are never merged."""
        taken = segment_bytes(size)
        block = self._blocks[self._next] = Block(self._next, taken)
        self._next += taken + BLOCK
        self.segments[block.address] = taken
        self.reserved += taken
        return block

    def release(self) -> None:
        """Give back the segments that are free from end to end (release_blocks, by torch.cuda.empty_cache)."""
        for address, size in list(self.segments.items()):
            block = self._blocks[address]
            if block.is_free and block.size == size:
                self._drop(block)
                del self._blocks[address]
                del self.segments[address]
                self.reserved -= size


class ExpandablePool(Pool):
    """The same with one segment that grows by whole pages (expandable_segments:True)."""

    __slots__ = ("_page",)

    def __init__(self, page: int) -> None:
        super().__init__(largest_waste=0)
        self._page = page
        self._next = 0

    def allocate(self, size: int) -> Block:
        """Serve a request; the block at the end of the segment, which can grow, counts as the largest of all."""
        free = self._free
        place = bisect_left(free, size << _SHIFT)
        if place + 1 == len(free) or place == len(free):
            return super().allocate(size)
        last = free[place]
        if (last & _ADDRESS) + (last >> _SHIFT) != self._next:
            return super().allocate(size)
        del free[place]
        block = super().allocate(size)
        insort(free, last)
        return block

    def _grown(self, size: int) -> Block:
        """The free block at the segment's end, if there is one, with as many new pages as the request needs."""
        last = self._last()
        if last is not None and last.is_free:
            self._drop(last)
            block = last
        else:
            block = self._blocks[self._next] = Block(self._next, 0, last)
            if last is not None:
                last.behind = block
        pages = -(-(size - block.size) // self._page) * self._page
        block.size += pages
        self._next += pages
        self.reserved += pages
        return block

    def _last(self) -> Block | None:
        """The block at the segment's end, from its beginning on."""
        block = self._blocks.get(0)
        while block is not None and block.behind is not None:
            block = block.behind
        return block


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

    def allocate(self, size: int) -> tuple[Pool, Block]:
        """Serve a request of any size: the pool that serves it, which is asked to free it again, and the block."""
        size = -(-size // BLOCK) * BLOCK
        pool = self.pool(size)
        return pool, pool.allocate(size)

    def empty_cache(self) -> None:
        """Give back every segment that is wholly free. An expandable segment keeps its pages: that is not modelled."""
        self._most = self.max_reserved
        self.small.release()
        self.large.release()
