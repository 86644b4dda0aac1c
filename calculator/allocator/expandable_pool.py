"""A pool of expandable segments (`expandable_segments:True`): a range of addresses whose pages are mapped as needed.

Source: ExpandableSegment and the functions of DeviceCachingAllocator that are named below, in
c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import TYPE_CHECKING

from calculator.allocator.address_space import SameSpaces, space_of
from calculator.allocator.block_pool import ADDRESS, SHIFT, Block, Pool
from calculator.allocator.segments import BLOCK

if TYPE_CHECKING:
    from calculator.allocator.address_space import Totals
    from calculator.allocator.caching_allocator import CachingAllocator

#: The size of a segment's address range if the device's memory is not known.
_UNLIMITED = 1 << 110


class UnmappedBlock(Block):
    """Addresses without memory. They are neither free nor in use."""

    __slots__ = ()


class ExpandablePool(Pool):
    """Segments that are mapped page by page.

    A page has 2 MiB for small requests, and the size of a large segment for large requests.
    """

    __slots__ = ("_page", "_same", "_unmapped")

    def __init__(self, allocator: CachingAllocator, page: int) -> None:
        super().__init__(allocator, largest_waste=0)
        self._page = page
        self._next = 0
        self._same = SameSpaces()
        #: The addresses of the unmapped blocks, in order.
        self._unmapped: list[int] = []

    @property
    def same_totals(self) -> Totals:
        """The memory of devices that serve the requests so far from the same blocks."""
        return self._same.totals(self._page)

    def allocate(self, size: int) -> Block:
        """Serve a request (get_free_block, alloc_found_block)."""
        place = self._best_fit(size)
        block = self.allocator.new_block(self, size) if place is None else self._blocks[self._free.pop(place) & ADDRESS]
        block.is_free = False
        if block.size > size:
            self._split(block, size)
        return block

    def grow(self, size: int) -> Block | None:
        """Map pages for a request and merge them with adjacent free blocks (try_allocate_expandable_block).

        Return None if the device has no room for them. Pages that were mapped before that stay cached.
        """
        if not self.allocator.allows(self.allocator.segment_bytes(size)):
            return None
        block: Block | None = self._address_space(size)
        if isinstance(block, UnmappedBlock):
            block = self._map(block, min(block.size, size))
        while block is not None and block.size < size:
            next_block = block.next
            block = self._map(next_block, min(next_block.size, size - block.size)) if next_block is not None else None
        if block is not None:
            self._drop(block)
        return block

    def release(self) -> None:
        """Return every wholly free page to the device (release_blocks, unmap_block)."""
        for key in list(self._free):
            block = self._blocks[key & ADDRESS]
            start = -(-block.address // self._page) * self._page
            end = (block.address + block.size) // self._page * self._page
            if start < end:
                self._unmap(block, start, end)

    def _best_fit(self, size: int) -> int | None:
        """Return the index of the free block for a request.

        A block that pages can be added to counts with these pages.
        """
        free = self._free
        place = bisect_left(free, size << SHIFT)
        if place == len(free):
            return None
        while self._reach(free[place]) > free[place] >> SHIFT and place + 1 < len(free) and self._reaches_less(place):
            place += 1
        return None if self.allocator.conf.oversized(size, free[place] >> SHIFT) else place

    def _reaches_less(self, place: int) -> bool:
        """Return whether the next free block can be expanded to less than a free block."""
        this, following = self._free[place : place + 2]
        excess = self._reach(this) - self._reach(following)
        if self._is_last(this):
            self._same.compare(self.segments[0], excess - BLOCK)
        elif self._is_last(following):
            self._same.compare(self.segments[0], -excess)
        return excess > 0

    def _is_last(self, key: int) -> bool:
        """Return whether all addresses behind a free block are unmapped."""
        next_block = self._blocks[key & ADDRESS].next
        return isinstance(next_block, UnmappedBlock) and next_block.next is None

    def _reach(self, key: int) -> int:
        """Return the size that a free block can be expanded to."""
        next_block = self._blocks[key & ADDRESS].next
        return (key >> SHIFT) + (next_block.size if isinstance(next_block, UnmappedBlock) else 0)

    def _address_space(self, size: int) -> Block:
        """Return the first free or unmapped block from which a request has room, in a new segment if needed.

        The room consists of adjacent free and unmapped blocks (find_expandable_block).
        """
        for address in self._unmapped:
            block = self._blocks[address]
            if block.prev is not None and block.prev.is_free:
                block = block.prev
            if self._has_room(block, size):
                return block
        if self.segments:
            self._same.only(self.segments[0], self._page)
        return self._new_segment()

    def _has_room(self, block: Block | None, size: int) -> bool:
        room = 0
        while block is not None and (block.is_free or isinstance(block, UnmappedBlock)):
            room += block.size
            block = block.next
            if room >= size and block is not None:
                return True
        if block is None:
            self._same.compare(self.segments[0], room - size)
        return room >= size

    def _new_segment(self) -> UnmappedBlock:
        """Reserve addresses for 9/8 of the device's memory, all of them unmapped."""
        total = self.allocator.total
        space = _UNLIMITED if total is None else space_of(total, self._page)
        block = UnmappedBlock(self._next, space)
        self.segments[block.address] = space
        self._next += space
        self._add_unmapped(block)
        return block

    def _map(self, unmapped: Block, size: int) -> Block | None:
        """Map pages at the start of an unmapped block, and cache them with their free neighbors (map_block)."""
        pages = -(-size // self._page) * self._page
        if not self.allocator.reserve(pages):
            return None
        self.reserved += pages
        self._unmapped.remove(unmapped.address)
        if unmapped.next is None:
            self._same.compare(self.segments[0], unmapped.size - pages - self._page)
        block = Block(unmapped.address, pages, unmapped.prev, unmapped.next)
        self._blocks[block.address] = block
        if block.prev is not None:
            block.prev.next = block
        if unmapped.size > pages:
            rest = UnmappedBlock(block.address + pages, unmapped.size - pages, block, unmapped.next)
            block.next = rest
            self._add_unmapped(rest)
        if unmapped.next is not None:
            unmapped.next.prev = block.next if unmapped.size > pages else block
        self.free(block)
        prev = block.prev
        return prev if prev is not None and prev.is_free else block

    def _unmap(self, block: Block, start: int, end: int) -> None:
        """Return the pages from `start` to `end` of a free block to the device. The rest stays cached."""
        self._drop(block)
        self.reserved -= end - start
        self.allocator.unreserve(end - start)
        prev, next_block = block.prev, block.next
        if start > block.address:
            prev = self._cached(block.address, start - block.address, prev)
        if end < block.address + block.size:
            next_block = self._cached(end, block.address + block.size - end, None, next_block)
        if isinstance(prev, UnmappedBlock):
            self._unmapped.remove(prev.address)
            start, prev = prev.address, prev.prev
        if isinstance(next_block, UnmappedBlock):
            self._unmapped.remove(next_block.address)
            end, next_block = next_block.address + next_block.size, next_block.next
        unmapped = UnmappedBlock(start, end - start, prev, next_block)
        if prev is not None:
            prev.next = unmapped
        if next_block is not None:
            next_block.prev = unmapped
        self._add_unmapped(unmapped)

    def _cached(self, address: int, size: int, prev: Block | None = None, next_block: Block | None = None) -> Block:
        """Add the part of a free block that stays cached."""
        block = self._blocks[address] = Block(address, size, prev, next_block)
        if prev is not None:
            prev.next = block
        if next_block is not None:
            next_block.prev = block
        block.is_free = True
        insort(self._free, size << SHIFT | address)
        return block

    def _add_unmapped(self, block: UnmappedBlock) -> None:
        self._blocks[block.address] = block
        insort(self._unmapped, block.address)
