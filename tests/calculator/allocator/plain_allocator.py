"""A plain transcription of PyTorch's allocator, against which the fast one is compared.

Each method has the name of the function in c10/cuda/CUDACachingAllocator.cpp that it transcribes. Blocks are ordered by
stream, then size, then address (BlockComparatorSize), so that a search of a pool ends where a stream's blocks do.
The driver places each segment above those before it; a device has `capacity` bytes in pages of 2 MiB.
"""

from collections import defaultdict
from dataclasses import dataclass
from math import inf

MIB = 1 << 20
SMALL_BUFFER, SMALL_SIZE, MIN_LARGE, ROUND_LARGE = 2 * MIB, MIB, 10 * MIB, 2 * MIB


class PlainOutOfMemoryError(Exception):
    """The transcription's torch.OutOfMemoryError."""


@dataclass(eq=False)
class Block:
    address: int
    size: int
    pool: "Pool"
    before: "Block | None" = None
    after: "Block | None" = None
    allocated: bool = False
    mapped: bool = True
    expandable: bool = False
    gc_base: int = 0
    stream: int = 0

    def is_split(self):
        return self.before is not None or self.after is not None


class Pool:
    def __init__(self, is_small, top):
        self.is_small = is_small
        self.blocks, self.unmapped = [], []
        self.calls, self.tops = 0, defaultdict(lambda: top)

    def of(self, stream):
        return [block for block in self.blocks if block.stream == stream]

    def insert(self, block):
        block.gc_base = self.calls
        self.blocks.append(block)
        self.blocks.sort(key=lambda b: (b.size, b.address))


class Plain:
    """malloc and free, step by step."""

    def __init__(
        self,
        *,
        capacity=inf,
        total=None,
        allowed=None,
        threshold=0.0,
        max_split=inf,
        max_non_split=20 * MIB,
        large_buffer=20 * MIB,
        divisions=0,
        expandable=False,
    ):
        self.capacity, self.allowed, self.threshold = capacity, allowed, threshold
        self.total = capacity if total is None else total
        self.max_split, self.max_non_split, self.large_buffer = max_split, max_non_split, large_buffer
        self.divisions, self.expandable = divisions, expandable
        top = 0 if expandable else 512
        self.small, self.large = Pool(is_small=True, top=top), Pool(is_small=False, top=top)
        self.reserved = self.device = self.retries = 0

    # The requests

    def round_size(self, size):
        if size < 512:
            return 512
        if self.divisions > 1 and size > 512 * self.divisions:
            if size & (size - 1) == 0:
                return size
            floor = 1 << (size.bit_length() - 1)
            division = floor >> (self.divisions.bit_length() - 1)
            rounded = size & ~(division - 1)
            return size if rounded == size else rounded + division
        return 512 * ((size + 511) // 512)

    def get_allocation_size(self, size):
        if size <= SMALL_SIZE:
            return SMALL_BUFFER
        if size < MIN_LARGE:
            return self.large_buffer
        return ROUND_LARGE * ((size + ROUND_LARGE - 1) // ROUND_LARGE)

    def malloc(self, size, stream=0):
        size = self.round_size(size)
        pool = self.small if size <= SMALL_SIZE else self.large
        block = self.get_free_block(pool, size, stream)
        if block is None:
            if self.allowed is not None and self.threshold > 0:
                self.garbage_collect_cached_blocks()
            block = self.alloc_block(pool, size, stream, is_retry=False)
            if block is None and self.release_available_cached_blocks(pool, size, stream):
                block = self.alloc_block(pool, size, stream, is_retry=False)
            if block is None:
                self.release_cached_blocks()
                block = self.alloc_block(pool, size, stream, is_retry=True)
            if block is None:
                raise PlainOutOfMemoryError
        if self.should_split(block, size):
            rest = Block(
                block.address + size,
                block.size - size,
                pool,
                block,
                block.after,
                expandable=block.expandable,
                stream=stream,
            )
            if block.after:
                block.after.before = rest
            block.after, block.size = rest, size
            pool.insert(rest)
        block.allocated = True
        return block

    def should_split(self, block, size):
        remaining = block.size - size
        if block.pool.is_small or self.expandable:
            return remaining >= 512
        return size < self.max_split and remaining > SMALL_SIZE

    def get_free_block(self, pool, size, stream):
        if self.allowed is not None and self.threshold > 0:
            pool.calls += 1
        fitting = [block for block in pool.of(stream) if block.size >= size]
        if not fitting:
            return None
        block = fitting.pop(0)
        if block.expandable:
            while fitting and self.expandable_size(fitting[0]) < self.expandable_size(block):
                block = fitting.pop(0)
        if size < self.max_split and block.size >= self.max_split:
            return None
        if size >= self.max_split and block.size >= size + self.max_non_split:
            return None
        pool.blocks.remove(block)
        return block

    @staticmethod
    def expandable_size(block):
        return block.size + (block.after.size if block.after and not block.after.mapped else 0)

    # The device

    def map(self, size):
        pages = (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        if self.device + pages > self.capacity:
            return False
        self.device += pages
        self.reserved += size
        return True

    def unmap(self, size):
        self.device -= (size + 2 * MIB - 1) // (2 * MIB) * 2 * MIB
        self.reserved -= size

    def alloc_block(self, pool, size, stream, *, is_retry):
        self.retries += is_retry
        segment = self.get_allocation_size(size)
        if self.allowed is not None and self.reserved + segment > self.allowed:
            return None
        if self.expandable:
            return self.try_allocate_expandable_block(pool, size, stream)
        if not self.map(segment):
            return None
        block = Block(pool.tops[stream], segment, pool, stream=stream)
        pool.tops[stream] += segment + 512
        return block

    def garbage_collect_cached_blocks(self):
        threshold = int(self.threshold * self.allowed)
        if self.reserved <= threshold:
            return
        target, reclaimed = self.reserved - threshold, 0
        freeable = [block for block in self.large.blocks if not block.is_split()]
        total_age = sum(self.large.calls - block.gc_base for block in freeable)
        count, freed = len(freeable), True
        while reclaimed < target and freed and count > 0:
            age_threshold, freed = total_age / count, False
            for block in list(self.large.blocks):
                age = self.large.calls - block.gc_base
                if not block.is_split() and not block.expandable and age >= age_threshold:
                    freed = True
                    reclaimed += block.size
                    total_age -= age
                    count -= 1
                    self.release_block(block)

    def release_available_cached_blocks(self, pool, size, stream):
        if self.max_split == inf:
            return False
        key = max(size, self.max_split)
        fitting = [block for block in pool.of(stream) if block.size >= key]
        if fitting and not fitting[0].expandable:
            self.release_block(fitting[0])
            return True
        released = 0
        for block in reversed(pool.of(stream)):
            if released >= key or block.size < self.max_split:
                break
            if not block.expandable:
                released += block.size
                self.release_block(block)
        return released >= key

    def release_cached_blocks(self):
        for pool in (self.large, self.small):
            for block in list(pool.blocks):
                if block.expandable:
                    self.unmap_block(block)
                elif not block.is_split():
                    self.release_block(block)

    def release_block(self, block):
        self.unmap(block.size)
        block.pool.blocks.remove(block)

    # Expandable segments

    def page(self, pool):
        return SMALL_BUFFER if pool.is_small else self.large_buffer

    def find_expandable_block(self, pool, size, stream):
        def allocatable(block):
            return block is not None and not block.allocated

        unmapped = [block for block in pool.unmapped if block.stream == stream]
        for block in sorted(unmapped, key=lambda b: b.address):
            candidate = block.before if allocatable(block.before) else block
            bytes_, at = 0, candidate
            while bytes_ < size and allocatable(at):
                bytes_ += at.size
                at = at.after
            if bytes_ >= size:
                return candidate
        page = self.page(pool)
        space = (self.total + self.total // 8 + page - 1) // page * page
        block = Block(pool.tops[stream], space, pool, mapped=False, expandable=True, stream=stream)
        pool.tops[stream] += space
        pool.unmapped.append(block)
        return block

    def map_block(self, block, size):
        pool, page = block.pool, self.page(block.pool)
        pages = (size + page - 1) // page * page
        if not self.map(pages):
            return False
        pool.unmapped.remove(block)
        block.mapped = True
        if pages < block.size:
            address = block.address + pages
            rest = Block(address, block.size - pages, pool, block, block.after, mapped=False, expandable=True)
            rest.stream = block.stream
            if block.after:
                block.after.before = rest
            block.after, block.size = rest, pages
            pool.unmapped.append(rest)
        self.try_merge_blocks(block, block.before)
        self.try_merge_blocks(block, block.after)
        pool.insert(block)
        return True

    def try_allocate_expandable_block(self, pool, size, stream):
        candidate = self.find_expandable_block(pool, size, stream)
        if not candidate.mapped and not self.map_block(candidate, min(candidate.size, size)):
            return None
        while candidate.size < size:
            new = candidate.after
            if not self.map_block(new, min(size - candidate.size, new.size)):
                return None
            candidate = new
        pool.blocks.remove(candidate)
        return candidate

    def unmap_block(self, block):
        pool, page = block.pool, self.page(block.pool)
        start = (block.address + page - 1) // page * page
        end = (block.address + block.size) // page * page
        if start >= end:
            return
        self.unmap(end - start)
        pool.blocks.remove(block)
        if start > block.address:
            before = Block(block.address, start - block.address, pool, block.before, block, expandable=True)
            before.stream = block.stream
            if block.before:
                block.before.after = before
            block.before = before
            pool.insert(before)
        if end < block.address + block.size:
            after = Block(end, block.address + block.size - end, pool, block, block.after, expandable=True)
            after.stream = block.stream
            if block.after:
                block.after.before = after
            block.after = after
            pool.insert(after)
        block.address, block.size, block.mapped = start, end - start, False
        self.try_merge_blocks(block, block.before)
        self.try_merge_blocks(block, block.after)
        pool.unmapped.append(block)

    # Frees

    def free(self, block):
        block.allocated = False
        self.try_merge_blocks(block, block.before)
        self.try_merge_blocks(block, block.after)
        block.pool.insert(block)

    @staticmethod
    def try_merge_blocks(block, other):
        if other is None or other.allocated or block.mapped != other.mapped:
            return
        (block.pool.blocks if other.mapped else block.pool.unmapped).remove(other)
        if block.before is other:
            block.address, block.before = other.address, other.before
            if block.before:
                block.before.after = block
        else:
            block.after = other.after
            if block.after:
                block.after.before = block
        block.size += other.size
