"""Pools of large requests under `max_split_size_mb` and `garbage_collection_threshold`.

Source: the functions of DeviceCachingAllocator that are named below, in c10/cuda/CUDACachingAllocator.cpp.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from calculator.allocator.block_pool import ADDRESS, SHIFT, Block, Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.allocator.caching_allocator import CachingAllocator


class ConfiguredPool(Pool):
    """A pool that does not split blocks of `max_split_size` and above, nor uses them for smaller requests."""

    __slots__ = ()

    def allocate(self, size: int) -> Block:
        """Serve a request (get_free_block, should_split)."""
        conf, free = self.allocator.conf, self._free
        place = bisect_left(free, size << SHIFT)
        if place < len(free) and not conf.oversized(size, free[place] >> SHIFT):
            block = self._blocks[free.pop(place) & ADDRESS]
        else:
            block = self.allocator.new_block(self, size)
        block.is_free = False
        splits = conf.max_split_size is None or size < conf.max_split_size
        if splits and block.size - size > self.largest_waste:
            self._split(block, size)
        return block

    def release_available(self, size: int) -> bool:
        """Free oversized blocks of this pool for a request (release_available_cached_blocks).

        One block that is large enough is freed, or else the largest blocks, as many as are needed. Return whether they
        are enough. Blocks of `max_split_size` and above are never split, so each of them is a whole segment.
        """
        limit = self.allocator.conf.max_split_size
        if limit is None:
            return False
        target = max(size, limit)
        place = bisect_left(self._free, target << SHIFT)
        if place < len(self._free):
            self.release_segment(self._blocks[self._free[place] & ADDRESS])
            return True
        released = 0
        while released < target and self._free and self._free[-1] >> SHIFT >= limit:
            released += self._free[-1] >> SHIFT
            self.release_segment(self._blocks[self._free[-1] & ADDRESS])
        return released >= target


class AgedPool(ConfiguredPool):
    """A pool that counts how many searches ago each free block was cached (gc_count_base)."""

    __slots__ = ("_cached_at",)

    def __init__(self, allocator: CachingAllocator, largest_waste: int) -> None:
        super().__init__(allocator, largest_waste)
        self._cached_at: dict[int, int] = {}

    def allocate(self, size: int) -> Block:
        """Serve a request, and count the search for it."""
        self.allocator.searches += 1
        return super().allocate(size)

    def free(self, block: Block) -> None:
        """Cache a block. Its age starts at zero, even if it is merged with older blocks (insert_into_blocks)."""
        super().free(block)
        prev = block.prev
        merged = prev is not None and prev.is_free
        self._cached_at[prev.address if prev is not None and merged else block.address] = self.allocator.searches

    def ages(self) -> Iterator[tuple[int, Block]]:
        """Yield each segment that is wholly free, and the number of searches since it was cached (gc_count)."""
        for key in self._free:
            address = key & ADDRESS
            if self.segments.get(address) == key >> SHIFT:
                yield self.allocator.searches - self._cached_at[address], self._blocks[address]
