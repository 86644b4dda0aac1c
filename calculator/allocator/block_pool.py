"""A pool of the caching allocator: its segments, cut into blocks, and its free blocks ordered by size and address.

Source: BlockPool and the functions of DeviceCachingAllocator that are named where they are modeled, in
c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from calculator.allocator.segments import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.allocator.caching_allocator import CachingAllocator

#: The key of a free block is one number, size · 2^128 + address. So a sorted list is ordered by size, then by address.
#: No address comes near 2^128, even for the largest plan that may be requested.
SHIFT = 128
ADDRESS = (1 << SHIFT) - 1


class Block:
    """A part of a segment, with links to the parts before and after it. Sizes and addresses are in bytes."""

    __slots__ = ("address", "is_free", "next", "prev", "size")

    def __init__(self, address: int, size: int, prev: Block | None = None, next_block: Block | None = None) -> None:
        self.address = address
        self.size = size
        self.prev = prev
        self.next = next_block
        self.is_free = False


class Pool:
    """The segments of small or of large requests on one stream. All sizes are rounded to blocks."""

    __slots__ = ("_blocks", "_free", "_next", "allocator", "largest_waste", "reserved", "segments")

    def __init__(self, allocator: CachingAllocator, largest_waste: int) -> None:
        self.allocator = allocator
        #: The largest remainder of a block that is not split off (should_split).
        self.largest_waste = largest_waste
        self.reserved = 0
        #: The size of the segment at each address.
        self.segments: dict[int, int] = {}
        self._next = BLOCK
        #: The keys of free blocks, and the block at each address, at least for free blocks.
        self._free: list[int] = []
        self._blocks: dict[int, Block] = {}

    def allocate(self, size: int) -> Block:
        """Serve a request (get_free_block, alloc_found_block).

        Raises:
            OutOfMemoryError: if the device has no room, even after cached segments were freed.
        """
        free = self._free
        place = bisect_left(free, size << SHIFT)
        block = self._blocks[free.pop(place) & ADDRESS] if place < len(free) else self.allocator.new_block(self, size)
        block.is_free = False
        if block.size - size > self.largest_waste:
            self._split(block, size)
        return block

    def free(self, block: Block) -> None:
        """Cache a block, merged with its free neighbors (free_block, try_merge_blocks)."""
        next_block = block.next
        if next_block is not None and next_block.is_free:
            self._drop(next_block)
            self._merge(block, next_block)
        prev = block.prev
        if prev is not None and prev.is_free:
            self._drop(prev)
            self._merge(prev, block)
            block = prev
        block.is_free = True
        insort(self._free, block.size << SHIFT | block.address)

    def free_bytes(self) -> int:
        """Return the bytes of all cached blocks."""
        return sum(key >> SHIFT for key in self._free)

    def chains(self) -> Iterator[list[Block]]:
        """Yield the blocks of each segment, in order of address."""
        for address in self.segments:
            block: Block | None = self._blocks[address]
            chain = []
            while block is not None:
                chain.append(block)
                block = block.next
            yield chain

    def grow(self, size: int) -> Block | None:
        """Return a new segment as one block, or None if the device has no room for it (alloc_block).

        Its addresses are not adjacent to any other segment, so that blocks of two segments are never merged.
        """
        segment = self.allocator.segment_bytes(size)
        if not (self.allocator.allows(segment) and self.allocator.reserve(segment)):
            return None
        block = self._blocks[self._next] = Block(self._next, segment)
        self._next += segment + BLOCK
        self.segments[block.address] = segment
        self.reserved += segment
        return block

    def release(self) -> None:
        """Return every wholly free segment to the device (release_blocks)."""
        for address, size in list(self.segments.items()):
            block = self._blocks[address]
            if block.is_free and block.size == size:
                self.release_segment(block)

    def release_segment(self, block: Block) -> None:
        """Return a wholly free segment to the device (release_block)."""
        self._drop(block)
        del self._blocks[block.address]
        del self.segments[block.address]
        self.reserved -= block.size
        self.allocator.unreserve(block.size)

    def release_available(self, size: int) -> bool:  # noqa: ARG002  pools that limit splitting use the size
        """Return whether enough oversized blocks were freed for a request.

        Without `max_split_size_mb` there are none.
        """
        return False

    def _split(self, block: Block, size: int) -> None:
        """Split a block to a size, and cache the rest."""
        address = block.address + size
        rest = Block(address, block.size - size, block, block.next)
        rest.is_free = True
        if block.next is not None:
            block.next.prev = rest
        block.next, block.size = rest, size
        self._blocks[address] = rest
        insort(self._free, rest.size << SHIFT | address)

    @staticmethod
    def _merge(block: Block, next_block: Block) -> None:
        block.size += next_block.size
        block.next = next_block.next
        if next_block.next is not None:
            next_block.next.prev = block

    def _drop(self, block: Block) -> None:
        """Remove a block from the free ones."""
        del self._free[bisect_left(self._free, block.size << SHIFT | block.address)]
