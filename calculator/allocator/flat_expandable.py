"""A device with expandable segments as flat lists. It places blocks as `CachingAllocator` does for them.

Sizes and addresses are in units of 512 bytes, and blocks are not objects (see `flat_device`). The algorithm is that of
`ExpandablePool`, whose functions name their source.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from copy import copy
from itertools import chain
from typing import TYPE_CHECKING

from calculator.allocator.address_space import space_of
from calculator.allocator.certain import serves
from calculator.allocator.expandable_range import Range
from calculator.allocator.flat_pool import RefusedError
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT, SMALL_REQUEST, SMALL_SEGMENT, segment_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from calculator.allocator.address_space import Totals
    from calculator.allocator.certain import Condition
    from calculator.allocator.flat_pool import Blocks, Placed, Places

SMALL = SMALL_REQUEST // BLOCK

#: Half of the addresses have room for at least this many segments (a power of two).
_SEGMENTS = 8


class FlatExpandable:
    """A device with expandable segments (see `flat_device.FlatDevice` for its attributes)."""

    __slots__ = (
        "_bits",
        "_ranges",
        "_shift",
        "capacity",
        "last_refused",
        "least_refused",
        "max_reserved",
        "reserved",
        "retries",
    )

    def __init__(self, bits: int, count: int = 2) -> None:
        """Set up an empty device.

        `bits`: the bits of an address beyond all segments of a single range. `count`: the number of ranges.
        """
        self.capacity: int | None = None
        self.reserved = self.max_reserved = self.retries = 0
        self.least_refused: int | None = None
        self.last_refused: int | None = None
        #: The number of address bits below those of the range's number.
        self._bits = bits + _SEGMENTS.bit_length()
        self._shift = self._bits + (count - 1).bit_length()
        pages = SMALL_SEGMENT // BLOCK, LARGE_SEGMENT // BLOCK
        self._ranges = [
            Range(self._shift, pages[n % 2], (n << self._bits) or pages[0], _whole(1 << bits, pages[n % 2]))
            for n in range(count)
        ]

    def keys(self, sizes: Sequence[int]) -> list[int]:
        """Return the range of each request on the first stream."""
        return [int(size > SMALL) for size in sizes]

    def pools(self, addresses: Sequence[int]) -> list[int]:
        """Return the range of each block, as `keys` does for requests."""
        return [address >> self._bits for address in addresses]

    def saved(self) -> FlatExpandable:
        """Return a device in the same state."""
        other = copy(self)
        other._ranges = [pool_range.saved() for pool_range in self._ranges]  # noqa: SLF001  its own class
        return other

    def set_capacity(self, capacity: int, total: int) -> None:
        """Set the bytes that the device offers.

        A segment has addresses for 9/8 of its total memory, or for more than a run needs.
        """
        self.capacity = capacity
        for pool_range in self._ranges:
            pool_range.resize(min(space_of(total, pool_range.page * BLOCK) // BLOCK, pool_range.space))

    @property
    def most_mapped(self) -> int:
        """The most that the device had mapped."""
        return self.max_reserved

    @property
    def same_totals(self) -> list[Totals]:
        """For each range, the memory of devices that serve its requests so far from the same blocks."""
        return [pool_range.same.totals(pool_range.page, BLOCK) for pool_range in self._ranges]

    def play(self, events: Sequence[int], sizes: Sequence[int], keys: Sequence[int], places: Places) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n` (see `FlatPool.play`).

        Raises:
            OutOfMemoryError: if the device has no room, even after cached pages were freed.
        """
        ranges, shift = self._ranges, self._shift
        mask = (1 << shift) - 1
        addresses, end_addresses = places
        for event in events:
            if event >= 0:
                pool_range = ranges[keys[event]]
                free, size = pool_range.free, sizes[event]
                place = bisect_left(free, size << shift)
                if place < len(free):
                    address = free[place] & mask
                    if pool_range.starts[address] in pool_range.unmapped_starts:
                        place = pool_range.best_fit(place)
                        address = free[place] & mask
                    del free[place]
                    behind = pool_range.starts.pop(address)
                    del pool_range.ends[behind]
                else:
                    address, behind = self._grow(pool_range, size, event)
                cut = address + size
                if behind > cut:
                    pool_range.starts[cut] = behind
                    pool_range.ends[behind] = cut
                    insort(free, behind - cut << shift | cut)
                addresses[event] = address
                end_addresses[event] = cut
            else:
                row = ~event
                pool_range = ranges[keys[row]]
                free, starts, ends = pool_range.free, pool_range.starts, pool_range.ends
                address, behind = addresses[row], end_addresses[row]
                if behind in starts:
                    end = starts.pop(behind)
                    del free[bisect_left(free, end - behind << shift | behind)]
                    behind = end
                if address in ends:
                    start = ends.pop(address)
                    del free[bisect_left(free, address - start << shift | start)]
                    address = start
                starts[address] = behind
                ends[behind] = address
                insort(free, behind - address << shift | address)

    def play_separately(self, play: Callable[[int, _SingleRange], None]) -> bool:
        """Replay each range separately, like `FlatDevice.play_separately`."""
        before = copy(self)
        self._ranges = [pool_range.saved() for pool_range in before._ranges]  # noqa: SLF001  its own class
        try:
            for number, pool_range in enumerate(self._ranges):
                play(number, _SingleRange(self, pool_range))
        except RefusedError:
            for name in self.__slots__:
                setattr(self, name, getattr(before, name))
            return False
        return True

    def _play_one(self, pool_range: Range, events: Sequence[int], sizes: Sequence[int], places: Places) -> None:
        """Play the events of a range.

        Raises:
            RefusedError: if the device has no room.
        """
        free, starts, ends, unmapped, shift = (
            pool_range.free,
            pool_range.starts,
            pool_range.ends,
            pool_range.unmapped_starts,
            pool_range.shift,
        )
        mask = (1 << shift) - 1
        addresses, end_addresses = places
        for event in events:
            if event >= 0:
                size = sizes[event]
                place = bisect_left(free, size << shift)
                if place < len(free):
                    address = free[place] & mask
                    if starts[address] in unmapped:
                        place = pool_range.best_fit(place)
                        address = free[place] & mask
                    del free[place]
                    behind = starts.pop(address)
                    del ends[behind]
                else:
                    block = self._map(pool_range, size)
                    if block is None:
                        raise RefusedError
                    address = block[0]
                    behind = pool_range.take(address)
                cut = address + size
                if behind > cut:
                    starts[cut] = behind
                    ends[behind] = cut
                    insort(free, behind - cut << shift | cut)
                addresses[event] = address
                end_addresses[event] = cut
            else:
                address, behind = addresses[~event], end_addresses[~event]
                if behind in starts:
                    end = starts.pop(behind)
                    del free[bisect_left(free, end - behind << shift | behind)]
                    behind = end
                if address in ends:
                    start = ends.pop(address)
                    del free[bisect_left(free, address - start << shift | start)]
                    address = start
                starts[address] = behind
                ends[behind] = address
                insort(free, behind - address << shift | address)

    def free(self, blocks: Sequence[Blocks]) -> None:
        """Free blocks of each range, in any order."""
        addresses, ends = ([*chain.from_iterable(places)] for places in zip(*blocks, strict=True))
        sizes = [behind - address for address, behind in zip(addresses, ends, strict=True)]
        self.play(range(-len(sizes), 0), sizes, self.pools(addresses), (addresses, ends))

    def counts(self) -> object:
        """Return the numbers of unmapped blocks. Devices with the same layout have equal counts."""
        return [len(pool_range.unmapped) for pool_range in self._ranges]

    def layout(self, left: Sequence[Blocks], gone: Sequence[Blocks]) -> object:
        """Return the state that the next requests depend on: the blocks that are free, unmapped, or in `left`.

        Blocks in `gone` count as free.
        """
        free: list[Placed] = []
        in_ranges = (block for pool_range in self._ranges for block in pool_range.starts.items())
        for address, behind in sorted([*_placed(gone), *in_ranges]):
            before = free.pop() if free and free[-1][1] == address else (address, address)
            free.append((before[0], behind))
        return free, sorted(_placed(left)), [sorted(pool_range.unmapped_starts.items()) for pool_range in self._ranges]

    def small_blocks(self) -> list[int]:
        """Return the free and unmapped blocks of the small range. They determine the places of its further requests."""
        small = self._ranges[0]
        unmapped = [place for address in small.unmapped for place in (address, small.unmapped_starts[address])]
        return [len(small.free), *small.free, *unmapped]

    def restore_small(self, blocks: list[int]) -> None:
        """Restore the free blocks that the small range had when it had the same pages."""
        small, mask = self._ranges[0], (1 << self._shift) - 1
        small.free = blocks[1 : blocks[0] + 1]
        small.starts = {key & mask: (key & mask) + (key >> self._shift) for key in small.free}
        small.ends = {behind: address for address, behind in small.starts.items()}

    def _grow(self, pool_range: Range, size: int, row: int) -> Placed:
        block = self._map(pool_range, size)
        if block is None:
            self.empty_cache()
            self.retries += 1
            block = self._map(pool_range, size)
        if block is None:
            raise self._out_of_memory(size, row)
        pool_range.take(block[0])
        return block

    def _map(self, pool_range: Range, size: int) -> Placed | None:
        """Map pages for a request. Return them with the adjacent free blocks, or None if there is no room."""
        address, behind = pool_range.room(size)
        if address in pool_range.unmapped_starts:
            mapped = self._mapped(pool_range, address, min(behind - address, size))
            if mapped is None:
                return None
            address, behind = mapped
        while behind - address < size:
            end = pool_range.unmapped_starts[behind]
            mapped = self._mapped(pool_range, behind, min(end - behind, size - (behind - address)))
            if mapped is None:
                return None
            address, behind = mapped
        return address, behind

    def _mapped(self, pool_range: Range, address: int, size: int) -> Placed | None:
        pages = _whole(size, pool_range.page)
        reserved = self.reserved + pages
        if self.capacity is not None and reserved * BLOCK > self.capacity:
            self.last_refused = reserved
            self.least_refused = min(reserved, self.least_refused or reserved)
            return None
        self.reserved = reserved
        self.max_reserved = max(self.max_reserved, reserved)
        return pool_range.map(address, pages)

    def empty_cache(self) -> None:
        """Return every wholly free page to the device (release_cached_blocks)."""
        mask = (1 << self._shift) - 1
        for pool_range in reversed(self._ranges):
            for key in pool_range.free.copy():
                self.reserved -= pool_range.unmap(key & mask)

    def _out_of_memory(self, size: int, row: int) -> OutOfMemoryError:
        cached = sum(key >> self._shift for pool_range in self._ranges for key in pool_range.free)
        error = OutOfMemoryError(
            requested=size * BLOCK,
            segment=segment_bytes(size * BLOCK),
            allocated=(self.reserved - cached) * BLOCK,
            reserved=self.reserved * BLOCK,
            free=(self.capacity or 0) - self.reserved * BLOCK,
            allowed=None,
        )
        error.row = row
        return error


class _SingleRange:
    """One range of a device, for a separate replay. It refuses requests that the device has no memory for."""

    __slots__ = ("_device", "_range")

    def __init__(self, device: FlatExpandable, pool_range: Range) -> None:
        self._device = device
        self._range = pool_range

    def play(self, events: Sequence[int], sizes: Sequence[int], places: Places) -> None:
        """Allocate and free rows."""
        self._device._play_one(self._range, events, sizes, places)  # noqa: SLF001  a part of it

    def serves(self, condition: Condition) -> bool:
        """Return whether requests are certain to be served from free blocks."""
        return serves(self._range.free, self._range.shift, condition, ())

    def serves_all(self, sizes: Sequence[int]) -> bool:  # noqa: ARG002  as that of a pool
        """Return False, since it is not known which pages of free blocks are mapped."""
        return False

    def free_blocks(self) -> None:
        """Return None, since requests also depend on the unmapped blocks."""


def _placed(blocks: Sequence[Blocks]) -> Iterator[Placed]:
    for of_range in blocks:
        yield from zip(*of_range, strict=True)


def _whole(size: int, page: int) -> int:
    return -(-size // page) * page
