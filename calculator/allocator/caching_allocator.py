"""PyTorch's CUDA caching allocator: the bytes that it reserves on a device for the tensors that it serves.

Requests are rounded up to 512 bytes. Those of up to 1 MiB share segments of 2 MiB. Those below 10 MiB share segments of
20 MiB. Larger ones get a segment of their own, in whole 2 MiB. A freed block is merged with its free neighbors in the
segment and cached. A request gets the smallest cached block that is large enough, the one with the lowest address if
there are several. The rest of that block is split off if it is worth caching. If no cached block is large enough, a
segment is requested from the device. If the device has no room for it, wholly free segments are returned to it and the
request is repeated before it fails. Each stream has pools of its own.

Source: DeviceCachingAllocator in c10/cuda/CUDACachingAllocator.cpp of PyTorch, whose functions are named where they are
modeled; c10/core/AllocatorConfig.h for the sizes. The driver's addresses are not known. Here each segment is above
those before it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.block_pool import Block, Pool
from calculator.allocator.configured_pools import AgedPool, ConfiguredPool
from calculator.allocator.expandable_pool import ExpandablePool
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import SMALL_REQUEST, SMALL_SEGMENT, segment_bytes, whole_pages

if TYPE_CHECKING:
    from calculator.allocator.address_space import Totals


class CachingAllocator:
    """Small and large requests, each served from its own pool of its stream.

    Attributes:
        conf: The settings of PYTORCH_CUDA_ALLOC_CONF.
        capacity: The bytes that the device offers this allocator. None for an unlimited device.
        total: The device's memory, of which `per_process_memory_fraction` is a part; by default the capacity.
        reserved: The value of `torch.cuda.memory_reserved`, bytes.
        max_reserved: The value of `torch.cuda.max_memory_reserved`, bytes.
        most_mapped: The most that the device had mapped for the segments; the same requests have the same history on
            every capacity from here on, below `least_refused`.
        least_refused, last_refused: What the device would have had to map where it refused, the least and the last;
            None where it never did.
        retries: Segments that were requested again after cached ones were freed (`num_alloc_retries`).
    """

    __slots__ = (
        "_device",
        "_streams",
        "allowed",
        "capacity",
        "conf",
        "large",
        "last_refused",
        "least_refused",
        "max_reserved",
        "most_mapped",
        "reserved",
        "retries",
        "searches",
        "small",
        "total",
    )

    def __init__(self, conf: AllocConf = DEFAULT, *, capacity: int | None = None, total: int | None = None) -> None:
        self.conf = conf
        self.capacity = capacity
        self.total = capacity if total is None else total
        #: The limit of setMemoryFraction: only a fraction below 1 sets it.
        self.allowed: int | None = None
        if self.total is not None and conf.per_process_memory_fraction < 1:
            self.allowed = int(conf.per_process_memory_fraction * self.total)
        self.reserved = 0
        self.max_reserved = 0
        self.most_mapped = 0
        self.least_refused: int | None = None
        self.last_refused: int | None = None
        self.retries = 0
        #: The number of searches of the large pools for a free block, in which ages are counted
        #: (get_free_blocks_call_count).
        self.searches = 0
        #: The bytes that the device has mapped for the segments, in whole pages of 2 MiB.
        self._device = 0
        self._streams: dict[int, tuple[Pool, Pool]] = {}
        self.small, self.large = self.pools(0)

    def pools(self, stream: int) -> tuple[Pool, Pool]:
        """Return the pools of small and of large requests on a stream."""
        if stream not in self._streams:
            self._streams[stream] = self._new_pools()
        return self._streams[stream]

    def every_pool(self) -> list[Pool]:
        """Return the pools of all streams that requests were made on."""
        return [pool for pools in self._streams.values() for pool in pools]

    @property
    def same_totals(self) -> list[Totals]:
        """For each expandable pool, the memory of devices that serve its requests so far from the same blocks."""
        return [pool.same_totals for pool in self.every_pool() if isinstance(pool, ExpandablePool)]

    @property
    def streams(self) -> tuple[int, ...]:
        """The streams that requests were made on, in the order of their first request."""
        return tuple(self._streams)

    def pool(self, size: int, stream: int = 0) -> Pool:
        """Return the pool that serves requests of a rounded size (get_pool)."""
        if stream:
            return self.pools(stream)[size > SMALL_REQUEST]
        return self.small if size <= SMALL_REQUEST else self.large

    def allocate(self, size: int, stream: int = 0) -> tuple[Pool, Block]:
        """Serve a request of any size. Return the pool whose `free` frees it again, and the block."""
        size = self.conf.round_size(size)
        pool = self.pool(size, stream)
        return pool, pool.allocate(size)

    def new_block(self, pool: Pool, size: int) -> Block:
        """Return a block from the device for a request that no cached block serves (malloc).

        Raises:
            OutOfMemoryError: if the device has no room, even after cached segments were freed.
        """
        if self._collects_garbage:
            self._collect_garbage()
        block = pool.grow(size)
        if block is None and pool.release_available(size):
            block = pool.grow(size)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = pool.grow(size)
        if block is None:
            raise self._out_of_memory(size)
        return block

    def empty_cache(self) -> None:
        """Return every wholly free segment, and every wholly free page of an expandable one (release_cached_blocks)."""
        for small, large in self._streams.values():
            large.release()
            small.release()

    def segment_bytes(self, size: int) -> int:
        """Return the size of the segment for a request of a rounded size."""
        return segment_bytes(size, self.conf.large_segment_size)

    def allows(self, segment: int) -> bool:
        """Return whether `per_process_memory_fraction` leaves room for a segment (alloc_block)."""
        return self.allowed is None or self.reserved + segment <= self.allowed

    def reserve(self, size: int) -> bool:
        """Reserve bytes. Return whether the device has room for them.

        cudaMalloc fails if too few pages are left.
        """
        mapped = self._device + whole_pages(size)
        if self.capacity is not None and mapped > self.capacity:
            self.last_refused = mapped
            self.least_refused = min(mapped, self.least_refused or mapped)
            return False
        self._device = mapped
        self.reserved += size
        self.max_reserved = max(self.max_reserved, self.reserved)
        self.most_mapped = max(self.most_mapped, mapped)
        return True

    def unreserve(self, size: int) -> None:
        """Return bytes to the device."""
        self._device -= whole_pages(size)
        self.reserved -= size

    def _new_pools(self) -> tuple[Pool, Pool]:
        conf = self.conf
        if conf.expandable_segments:
            return ExpandablePool(self, SMALL_SEGMENT), ExpandablePool(self, conf.large_segment_size)
        small, large = Pool(self, largest_waste=0), Pool(self, largest_waste=SMALL_REQUEST)
        if self._collects_garbage:
            large = AgedPool(self, largest_waste=SMALL_REQUEST)
        elif conf.max_split_size is not None:
            large = ConfiguredPool(self, largest_waste=SMALL_REQUEST)
        return small, large

    @property
    def _collects_garbage(self) -> bool:
        """Whether the threshold is read. malloc reads it only if the process may use a fraction of the device."""
        return self.allowed is not None and self.conf.garbage_collection_threshold > 0

    def _collect_garbage(self) -> None:
        """Free cached segments that have not been used for long (garbage_collect_cached_blocks).

        It runs if the reserved memory exceeds the threshold. Of the large segments that are wholly free, those of at
        least the average age are freed. This is repeated until the excess over the threshold is freed.
        """
        target = self.reserved - int(self.conf.garbage_collection_threshold * (self.allowed or 0))
        pools = [large for _, large in self._streams.values() if isinstance(large, AgedPool)]
        aged = [(age, block, pool) for pool in pools for age, block in pool.ages()] if target > 0 else []
        while aged and target > 0:
            average = sum(age for age, _, _ in aged) / len(aged)
            for age, block, pool in aged:
                if age >= average:
                    target -= block.size
                    pool.release_segment(block)
            aged = [entry for entry in aged if entry[0] < average]

    def _out_of_memory(self, size: int) -> OutOfMemoryError:
        cached = sum(pool.free_bytes() for pool in self.every_pool())
        return OutOfMemoryError(
            requested=size,
            segment=self.segment_bytes(size),
            allocated=self.reserved - cached,
            reserved=self.reserved,
            free=(self.total or 0) - self._device if self.capacity is None else self.capacity - self._device,
            allowed=self.allowed,
        )
