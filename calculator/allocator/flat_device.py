"""Both pools of a device as flat lists, with a capacity: the placements of `CachingAllocator` with default settings.

Sizes and addresses are in units of 512 bytes. A block is its address and the one behind it; it is no object.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from copy import copy
from typing import TYPE_CHECKING

from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.segments import BLOCK, SMALL_REQUEST, segment_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.flat_pool import Placed, Places

#: The largest size in the small pool, and the largest rest of a large block that is not split off, in units.
SMALL = SMALL_REQUEST // BLOCK


class FlatDevice:
    """The free blocks of both pools in one list, the large pool's behind the small one's.

    A free block's key is its pool, its size and its address, in this order of bits. Large blocks have the higher
    addresses.

    Attributes:
        capacity: What the device offers, bytes; None where it never runs out.
        reserved, max_reserved: The size of all segments, now and at most.
        retries: Segments that were requested again after cached ones were freed.
        least_refused, last_refused: What would have been reserved where a segment was refused, the least and the last.
    """

    __slots__ = (
        "_edges",
        "_free",
        "_large",
        "_next",
        "_segments",
        "_shift",
        "capacity",
        "last_refused",
        "least_refused",
        "max_reserved",
        "reserved",
        "retries",
    )

    def __init__(self, shift: int) -> None:
        """`shift`: bits of the largest address."""
        self.capacity: int | None = None
        self.reserved = self.max_reserved = self.retries = 0
        self.least_refused: int | None = None
        self.last_refused: int | None = None
        self._shift = shift
        #: The bit of a key that marks a large block.
        self._large = 1 << 2 * shift
        #: The next address of a small and of a large segment.
        self._next = [1, 1 << shift - 1]
        self._segments: dict[int, int] = {}
        self._free: list[int] = []
        #: The address behind a free block by its own, and its own by that behind it: no free block begins there.
        self._edges: dict[int, int] = {}

    def on(self, capacity: int, total: int) -> None:  # noqa: ARG002  expandable segments depend on the device's memory
        """Set what the device offers."""
        self.capacity = capacity

    def keys(self, sizes: Sequence[int]) -> list[int]:
        """The lowest keys of free blocks for requests."""
        shift, large = self._shift, self._large
        return [size << shift if size <= SMALL else size << shift | large for size in sizes]

    def saved(self) -> FlatDevice:
        """A device in the same state."""
        other = copy(self)
        for name in ("_edges", "_free", "_next", "_segments"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def play(self, events: Sequence[int], sizes: Sequence[int], keys: Sequence[int], places: Places) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n` (see `FlatPool.play`).

        Raises:
            OutOfMemoryError: where the device has no room, even after cached segments were freed.
        """
        free, edges = self._free, self._edges
        shift, large = self._shift, self._large
        mask = (1 << shift) - 1
        addresses, behinds = places
        for event in events:
            if event >= 0:
                key, size = keys[event], sizes[event]
                place = bisect_left(free, key)
                if place < len(free) and (key >= large or free[place] < large):
                    address = free[place] & mask
                    behind = edges.pop(address)
                    cut = address + size
                    if behind - cut > (SMALL if key >= large else 0):
                        edges[cut] = behind
                        edges[behind] = cut
                        rest = behind - cut << shift | cut | key & large
                        # Most often the rest takes the block's place among the others.
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
                    address, behind = self._grow(size, event)
                addresses[event] = address
                behinds[event] = behind
            else:
                row = ~event
                address, behind, pool = addresses[row], behinds[row], keys[row] & large
                if behind in edges:
                    end = edges.pop(behind)
                    del free[bisect_left(free, end - behind << shift | behind | pool)]
                    behind = end
                if address in edges:
                    start = edges.pop(address)
                    del free[bisect_left(free, address - start << shift | start | pool)]
                    address = start
                edges[address] = behind
                edges[behind] = address
                insort(free, behind - address << shift | address | pool)

    def layout(self, left: Sequence[Placed], gone: Sequence[Placed]) -> object:
        """What the next requests depend on, with addresses by segment: its parts that are free or in `left`.

        Those in `gone` count as free.
        """
        starts = {address: behind for address, behind in self._edges.items() if address < behind} | dict(gone)
        segments = sorted(self._segments)
        parts: list[tuple[int, int, int, bool]] = []
        for kept, blocks in ((False, sorted(starts.items())), (True, sorted(left))):
            for address, behind in blocks:
                number = bisect_right(segments, address) - 1
                start, end = address - segments[number], behind - segments[number]
                if parts and parts[-1][0] == number and parts[-1][2:] == (start, False) and not kept:
                    start = parts.pop()[1]
                parts.append((number, start, end, kept))
        return [(self._segments[address] - address, address >= self._first_large) for address in segments], parts

    def pools(self, addresses: Sequence[int]) -> list[int]:
        """The pools of blocks, as keys have them."""
        return [self._large if address >= self._first_large else 0 for address in addresses]

    def small_blocks(self) -> list[int]:
        """The free blocks of the small pool, on which the places of its further requests depend."""
        return self._free[: bisect_left(self._free, self._large)]

    def restore_small(self, blocks: list[int]) -> None:
        """Leave the small pool with the free blocks that it had when it had as many segments."""
        mask = (1 << self._shift) - 1
        count = bisect_left(self._free, self._large)
        for key in self._free[:count]:
            del self._edges[self._edges.pop(key & mask)]
        for key in blocks:
            address = key & mask
            behind = address + (key >> self._shift)
            self._edges[address] = behind
            self._edges[behind] = address
        self._free[:count] = blocks

    def empty_cache(self) -> None:
        """Return every wholly free segment to the device (release_cached_blocks)."""
        for address, behind in [*self._segments.items()]:
            if self._edges.get(address) == behind:
                pool = self._large if address >= self._first_large else 0
                del self._free[bisect_left(self._free, behind - address << self._shift | address | pool)]
                del self._edges[address]
                del self._edges[behind]
                del self._segments[address]
                self.reserved -= behind - address

    @property
    def most_mapped(self) -> int:
        """The most that the device had mapped: segments are whole pages."""
        return self.max_reserved

    @property
    def _first_large(self) -> int:
        return 1 << self._shift - 1

    def _grow(self, size: int, row: int) -> Placed:
        segment = segment_bytes(size * BLOCK) // BLOCK
        if not self._reserve(segment):
            self.empty_cache()
            self.retries += 1
            if not self._reserve(segment):
                raise self._out_of_memory(size, segment, row)
        large = size > SMALL
        address = self._next[large]
        behind = address + segment
        self._next[large] = behind + 1
        self._segments[address] = behind
        cut = address + size
        if behind - cut > (SMALL if large else 0):
            self._edges[cut] = behind
            self._edges[behind] = cut
            insort(self._free, behind - cut << self._shift | cut | (self._large if large else 0))
            behind = cut
        return address, behind

    def _reserve(self, segment: int) -> bool:
        reserved = self.reserved + segment
        if self.capacity is not None and reserved * BLOCK > self.capacity:
            self.last_refused = reserved
            self.least_refused = min(reserved, self.least_refused or reserved)
            return False
        self.reserved = reserved
        self.max_reserved = max(self.max_reserved, reserved)
        return True

    def _out_of_memory(self, size: int, segment: int, row: int) -> OutOfMemoryError:
        cached = sum(max(0, behind - address) for address, behind in self._edges.items())
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
