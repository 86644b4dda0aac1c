"""A device with a capacity, whose pools are flat lists.

It places blocks as `CachingAllocator` does with default settings.

Sizes and addresses are in units of 512 bytes. A block is a pair of its address and its end address, not an object.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from copy import copy
from functools import partial
from typing import TYPE_CHECKING

from calculator.allocator.flat_pool import FlatPool, RefusedError
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segment_moves import close_gaps, has_gaps
from calculator.allocator.segments import BLOCK, SMALL_REQUEST, segment_bytes
from calculator.common.deferred import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from calculator.allocator.address_space import Totals
    from calculator.allocator.flat_pool import Blocks, Placed, Places
    from calculator.allocator.segment_moves import Moves
    from calculator.allocator.stage_cache import CachedStage, StageCache, StageResult

#: The largest size in the small pool, in units.
SMALL = SMALL_REQUEST // BLOCK


class FlatDevice:
    """A device with a small and a large pool for each stream. The addresses of a pool are above those of earlier pools.

    Attributes:
        capacity: The bytes that the device offers. None for an unlimited device.
        max_reserved: The most that was reserved, in units of 512 bytes.
        retries: The number of segments that were requested again after cached ones were freed.
        least_refused, last_refused: What would have been reserved at the refusals: the least, and at the last one.
    """

    __slots__ = (
        "_bits",
        "_owns_pools",
        "_pools",
        "_shift",
        "capacity",
        "last_refused",
        "least_refused",
        "max_reserved",
        "retries",
    )

    def __init__(self, shift: int, count: int = 2) -> None:
        """Set up an empty device.

        `shift`: the number of bits of the largest address. `count`: the number of pools.
        """
        self.capacity: int | None = None
        self.max_reserved = self.retries = 0
        self.least_refused: int | None = None
        self.last_refused: int | None = None
        self._shift = shift
        #: The number of address bits below those of the pool's number.
        self._bits = shift - (count - 1).bit_length()
        self._pools = [FlatPool(shift, small=n % 2 == 0, start=(n << self._bits) or 1) for n in range(count)]
        #: Whether no other device refers to the pools, so that they may be changed.
        self._owns_pools = True

    @property
    def reserved(self) -> int:
        """The size of all segments."""
        return sum([pool.reserved for pool in self._pools])

    def set_capacity(self, capacity: int, total: int) -> None:  # noqa: ARG002  expandable segments depend on the device's memory
        """Set the bytes that the device offers."""
        self.capacity = capacity

    def keys(self, sizes: Sequence[int]) -> list[int]:
        """Return the pool of each request on the first stream."""
        return [int(size > SMALL) for size in sizes]

    def saved(self) -> FlatDevice:
        """Return a device in the same state. The two share pools until one of them changes a pool."""
        self._owns_pools = False
        return copy(self)

    def state(self) -> Hashable:
        """Return all that the placement of further blocks depends on."""
        pools = [(*pool.free_keys, None, *pool.segments, None, pool.next_address) for pool in self._pools]
        return self.capacity, self._shift, *pools

    def _own_pools(self) -> None:
        """Copy pools that other devices share."""
        if not self._owns_pools:
            self._pools = [pool.copied() for pool in self._pools]
            self._owns_pools = True

    def play_separately(self, play: Callable[[int, FlatPool], None], stage: CachedStage | None = None) -> bool:
        """Replay each pool separately, with `play(number, pool)`. Return whether it succeeded.

        Pools are independent of each other as long as no segment is refused. If one would be refused, return False.
        Then nothing has changed except what `play` changed outside the pools. A pool whose result is in `stage`
        is not replayed.
        """
        pools: list[FlatPool] = []
        spare = None if self.capacity is None else self.capacity // BLOCK - self.reserved
        try:
            for number, before in enumerate(self._pools):
                limit = None if spare is None else before.reserved + spare
                pools.append(_played(number, before, limit, play, stage))
                spare = None if spare is None else spare - (pools[-1].reserved - before.reserved)
        except RefusedError:
            return False
        self._pools, self._owns_pools = pools, stage is None
        self.max_reserved = max(self.max_reserved, self.reserved)
        return True

    def play(self, events: Sequence[int], sizes: Sequence[int], keys: Sequence[int], places: Places) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n` (see `FlatPool.play`).

        Raises:
            OutOfMemoryError: if the device has no room, even after cached segments were freed.
        """
        self._own_pools()
        pools = tuple((pool.free_keys, pool.edges, pool.waste) for pool in self._pools)
        shift = self._shift
        mask = (1 << shift) - 1
        addresses, end_addresses = places
        for event in events:
            if event >= 0:
                free, edges, waste = pools[keys[event]]
                size = sizes[event]
                place = bisect_left(free, size << shift)
                if place < len(free):
                    address = free[place] & mask
                    behind = edges.pop(address)
                    cut = address + size
                    if behind - cut > waste:
                        edges[cut] = behind
                        edges[behind] = cut
                        rest = behind - cut << shift | cut
                        # Most often, the rest of the block takes its place in the ordered list.
                        if not place or free[place - 1] < rest:
                            free[place] = rest
                        else:
                            del free[place]
                            insort(free, rest)
                        behind = cut
                    else:
                        del free[place]
                        del edges[behind]
                else:
                    address, behind = self._grow(size, event, keys[event])
                addresses[event] = address
                end_addresses[event] = behind
            else:
                row = ~event
                free, edges, waste = pools[keys[row]]
                address, behind = addresses[row], end_addresses[row]
                if behind in edges:
                    end = edges.pop(behind)
                    del free[bisect_left(free, end - behind << shift | behind)]
                    behind = end
                if address in edges:
                    start = edges.pop(address)
                    del free[bisect_left(free, address - start << shift | start)]
                    address = start
                edges[address] = behind
                edges[behind] = address
                insort(free, behind - address << shift | address)

    def free(self, blocks: Sequence[Blocks]) -> None:
        """Free blocks of each pool, in any order."""
        self._own_pools()
        for pool, of_pool in zip(self._pools, blocks, strict=True):
            pool.free([*zip(*of_pool, strict=True)])

    def free_once(self, blocks: Sequence[Blocks], cache: StageCache, before: list[StageResult | None]) -> None:
        """Free blocks of each pool as `free` does. A pool whose state after it is in the cache is not changed.

        `before` has the cached state of each pool before it. It is replaced by the state after it.
        """
        self._pools = [
            cache.free(number, pool, of_pool, before) if of_pool[0] else pool
            for number, (pool, of_pool) in enumerate(zip(self._pools, blocks, strict=True))
        ]
        self._owns_pools = False

    def counts(self) -> object:
        """Return the number and the size of segments. Devices with the same layout have equal counts."""
        return [(pool.reserved, len(pool.segments)) for pool in self._pools]

    def layout(self, left: Sequence[Blocks], gone: Sequence[Blocks]) -> object:
        """Return the state that the next requests depend on, by pool, computed when it is compared.

        The last pool comes first. Blocks in `gone` count as free. Blocks in `left` are freed later.
        """
        pools = [*zip(self._pools, left, gone, strict=True)]
        return [Deferred(partial(self._layout, *of_pool)) for of_pool in pools[::-1]]

    def _layout(self, pool: FlatPool, left: Blocks, gone: Blocks) -> object:
        """Return the segments of a pool, and its parts that are free or in `left`.

        Addresses are relative to the segment.
        """
        starts = dict(zip(*gone, strict=True))
        starts.update((address, behind) for address, behind in pool.edges.items() if address < behind)
        mask = (1 << self._shift) - 1
        segments = [key & mask for key in pool.segments]
        parts: list[tuple[int, int, int, bool]] = []
        for kept, blocks in ((False, sorted(starts.items())), (True, sorted(zip(*left, strict=True)))):
            for address, behind in blocks:
                number = bisect_right(segments, address) - 1
                start, end = address - segments[number], behind - segments[number]
                if parts and parts[-1][0] == number and parts[-1][2:] == (start, False) and not kept:
                    start = parts.pop()[1]
                parts.append((number, start, end, kept))
        return [key >> self._shift for key in pool.segments], parts

    def pools(self, addresses: Sequence[int]) -> list[int]:
        """Return the pool of each block, as `keys` does for requests."""
        return [address >> self._bits for address in addresses]

    def small_blocks(self) -> list[int]:
        """Return the free blocks of the small pool. They determine the places of its further requests."""
        return self._pools[0].free_blocks()

    def restore_small(self, blocks: list[int]) -> None:
        """Restore the free blocks that the small pool had when it had the same segments."""
        self._own_pools()
        small, mask = self._pools[0], (1 << self._shift) - 1
        small.free_keys = blocks.copy()
        small.edges = {key & mask: (key & mask) + (key >> self._shift) for key in blocks}
        small.edges |= {behind: address for address, behind in small.edges.items()}

    def close_gaps(self) -> dict[int, Moves]:
        """Close the gaps between the segments of large pools that were left when segments between them were released.

        Return the moves of the pools that had any, by number. Small pools have many segments, and few events.
        """
        numbers = [number for number in range(1, len(self._pools), 2) if has_gaps(self._pools[number])]
        if numbers:
            self._own_pools()
        return {number: close_gaps(self._pools[number]) for number in numbers}

    def empty_cache(self) -> None:
        """Return every wholly free segment to the device (release_cached_blocks)."""
        self._own_pools()
        for pool in self._pools:
            pool.release()

    @property
    def most_mapped(self) -> int:
        """The most that the device had mapped. Segments are whole pages."""
        return self.max_reserved

    @property
    def same_totals(self) -> list[Totals]:
        """An empty list, since addresses do not depend on the device's memory (see `FlatExpandable.same_totals`)."""
        return []

    def _grow(self, size: int, row: int, number: int) -> Placed:
        segment = segment_bytes(size * BLOCK) // BLOCK
        if not self._has_room(segment):
            self.empty_cache()
            self.retries += 1
            if not self._has_room(segment):
                raise self._out_of_memory(size, segment, row)
        block = self._pools[number].grow(size)
        self.max_reserved = max(self.max_reserved, self.reserved)
        return block

    def _has_room(self, segment: int) -> bool:
        reserved = self.reserved + segment
        if self.capacity is not None and reserved * BLOCK > self.capacity:
            self.last_refused = reserved
            self.least_refused = min(reserved, self.least_refused or reserved)
            return False
        return True

    def _out_of_memory(self, size: int, segment: int, row: int) -> OutOfMemoryError:
        cached = sum(key >> self._shift for pool in self._pools for key in pool.free_keys)
        error = OutOfMemoryError(
            requested=size * BLOCK,
            segment=segment * BLOCK,
            allocated=(self.reserved - cached) * BLOCK,
            reserved=self.reserved * BLOCK,
            free=(self.capacity or 0) - self.reserved * BLOCK,
            allowed=None,
        )
        error.row = row
        return error


def _played(
    number: int,
    before: FlatPool,
    limit: int | None,
    play: Callable[[int, FlatPool], None],
    stage: CachedStage | None,
) -> FlatPool:
    """Return a copy of a pool, after its events.

    Raises:
        RefusedError: if it would reserve more than the limit.
    """
    pool = None if stage is None else stage.lookup(number, before)
    if pool is None:
        pool = before.copied()
        pool.limit = limit
        play(number, pool)
        pool.limit = None
        if stage is not None:
            stage.add(number, before, pool)
    elif limit is not None and pool.reserved > limit:
        raise RefusedError
    return pool
