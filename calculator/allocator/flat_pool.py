"""A pool as flat lists, for replays of many events. It places blocks as `block_pool.Pool` does with default settings.

Sizes and addresses are in units of 512 bytes. A block is a pair of its address and its end address, not an object.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

from calculator.allocator.certain import serves
from calculator.allocator.repeated_requests import place_layers, unserved
from calculator.allocator.segments import BLOCK, SMALL_REQUEST, SMALL_SEGMENT, segment_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.allocator.certain import Condition
    from calculator.allocator.segment_moves import Moves

#: The largest remainder of a large block that is not split off.
_LARGEST_WASTE = SMALL_REQUEST // BLOCK

#: The size of the segment that a small pool adds for any request.
_SMALL_SEGMENT = SMALL_SEGMENT // BLOCK

#: A block in use: its address and its end address.
Placed = tuple[int, int]
#: Blocks in use: their addresses and their end addresses.
Blocks = tuple[tuple[int, ...], tuple[int, ...]]
#: The places of many rows, as a list of addresses and a list of end addresses.
Places = tuple[list[int], list[int]]
#: A size, and how often it comes in a row.
Run = tuple[int, int]
#: The sizes of a layer's requests, and the number of such layers.
Layer = tuple[list[int], int]
#: A saved state: the free blocks, and the number of segments.
Saved = tuple[list[int], dict[int, int], int]


class RefusedError(Exception):
    """A request for a segment that the device has no room for."""


class FlatPool:
    """The segments of small or of large requests.

    A key is a number with the address in its lowest bits and the size above them.

    Attributes:
        shift: The number of bits of an address.
        mask: A number with these bits set.
        limit: The most that it may reserve. None if no request is refused.
        reserved: The size of all segments.
        waste: The largest remainder of a block that is not split off.
        segments: The keys of all segments (as if they were wholly free), in the order in which they were added.
        free_keys: The keys of free blocks, in order.
        edges: The end of each free block by its start, and the start by its end. No free block begins at an end.
        next_address: The address of the next segment.
    """

    __slots__ = ("edges", "free_keys", "limit", "mask", "next_address", "reserved", "segments", "shift", "waste")

    def __init__(self, shift: int, *, small: bool, start: int = 1) -> None:
        """Set up an empty pool.

        `shift`: the number of bits of the largest address. `start`: the first address.
        """
        self.waste = 0 if small else _LARGEST_WASTE
        self.limit: int | None = None
        self.reserved = 0
        self.shift = shift
        self.mask = (1 << shift) - 1
        self.next_address = start
        self.segments: list[int] = []
        self.free_keys: list[int] = []
        self.edges: dict[int, int] = {}

    def play(self, events: Iterable[int], sizes: Sequence[int], places: Places) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n`.

        `sizes` has the requested size of each row. The addresses and end addresses of the blocks are written to
        `places`.
        """
        free, edges = self.free_keys, self.edges
        shift, mask, waste = self.shift, self.mask, self.waste
        addresses, end_addresses = places
        for event in events:
            if event >= 0:
                size = sizes[event]
                place = bisect_left(free, size << shift)
                try:
                    address = free[place] & mask
                except IndexError:
                    addresses[event], end_addresses[event] = self.grow(size)
                    continue
                addresses[event] = address
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
                    end_addresses[event] = cut
                else:
                    del free[place]
                    del edges[behind]
                    end_addresses[event] = behind
            else:
                row = ~event
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

    def allocate(self, sizes: Sequence[int], times: int = 1) -> None:
        """Allocate blocks that are never freed, `times` over, on an unlimited device."""
        if not sizes:
            return
        before, mask = {*self.free_keys}, self.mask
        start, repeated, end = _runs(sizes, times)
        self._place(start)
        if repeated:
            place_layers(self, partial(self._place, repeated), times - 1, min(sizes))
        self._place(end)
        after = {*self.free_keys}
        for key in before - after:
            address = key & mask
            del self.edges[address], self.edges[address + (key >> self.shift)]
        for key in after - before:
            address, behind = key & mask, (key & mask) + (key >> self.shift)
            self.edges[address], self.edges[behind] = behind, address

    def _place(self, runs: Iterable[Run]) -> None:
        """Place requests in free blocks. Leave the edges as they are.

        Equal sizes in a row are placed at once: what is left of a free block is smaller than all others that fit.
        """
        free, shift, least = self.free_keys, self.shift, self.waste + 1 << self.shift
        for size, equal in runs:
            wanted, count = size << shift, equal
            while count:
                place = bisect_left(free, wanted)
                try:
                    rest = free[place] - wanted + size
                except IndexError:
                    count -= self._add_segments(size, count)
                    continue
                if count > 1:
                    fitting = min(count, (free[place] >> shift) // size)
                    rest -= (fitting - 1) * (wanted - size)
                    count -= fitting - 1
                count -= 1
                if rest < least:
                    del free[place]
                elif place and free[place - 1] > rest:
                    del free[place]
                    insort(free, rest)
                else:
                    free[place] = rest

    def _add_segments(self, size: int, count: int) -> int:
        """Add the segments that equal requests fill, or a free one. Return how many requests they serve."""
        segment = self._segment(size)
        in_each = segment // size
        filled = count // in_each if segment - in_each * size <= self.waste else 0
        first, step, added = segment << self.shift | self.next_address, segment + 1, filled or 1
        self.segments += range(first, first + added * step, step)
        self.reserved += added * segment
        self.next_address += added * step
        if not filled:
            insort(self.free_keys, first)
        return filled * in_each

    def free(self, blocks: Sequence[Placed]) -> None:
        """Free blocks, all at once."""
        if not blocks:
            return
        edges, shift = self.edges, self.shift
        gone: set[int] = set()
        added = []
        for first, last in _joined(blocks):
            address, behind = first, last
            if last in edges:
                behind = edges.pop(last)
                gone.add(behind - last << shift | last)
            if first in edges:
                address = edges.pop(first)
                gone.add(first - address << shift | address)
            edges[address] = behind
            edges[behind] = address
            added.append(behind - address << shift | address)
        self.free_keys = sorted([key for key in [*self.free_keys, *added] if key not in gone])

    def copied(self) -> FlatPool:
        """Return a pool in the same state."""
        other = self.with_segments(self.segments.copy(), self.reserved, self.next_address)
        other.free_keys, other.edges = self.free_keys.copy(), self.edges.copy()
        return other

    def with_segments(self, segments: list[int], reserved: int, next_address: int) -> FlatPool:
        """Return a pool with other segments that shares the lists of free blocks. Neither pool may be changed."""
        other = object.__new__(FlatPool)  # replays copy pools often: this is faster than `copy`
        other.waste, other.limit, other.reserved = self.waste, self.limit, reserved
        other.shift, other.mask, other.next_address = self.shift, self.mask, next_address
        other.segments, other.free_keys, other.edges = segments, self.free_keys, self.edges
        return other

    def release(self) -> None:
        """Return every wholly free segment to the device (release_cached_blocks)."""
        start = bisect_left(self.free_keys, _SMALL_SEGMENT << self.shift)
        gone = {*self.free_keys[start:]}.intersection(self.segments)
        if not gone:
            return
        for key in gone:
            address = key & self.mask
            del self.edges[address], self.edges[address + (key >> self.shift)]
        self.reserved -= sum(key >> self.shift for key in gone)
        self.free_keys[start:] = [key for key in self.free_keys[start:] if key not in gone]
        self.segments = [key for key in self.segments if key not in gone]
        if self.segments:
            # Only the order of addresses matters. Replays that reach the same addresses can share what follows.
            self.next_address = (self.segments[-1] & self.mask) + (self.segments[-1] >> self.shift) + 1

    def moved(self, moves: Moves, next_address: int) -> None:
        """Move all segments. `next_address` is the address of the next segment."""
        self.segments = [*moves.moved_keys(self.segments, self.mask)]
        self.set_free(moves.moved_keys(self.free_keys, self.mask))
        self.next_address = next_address

    def free_blocks(self) -> list[int]:
        """Return the keys of all free blocks. They determine the places of all further requests."""
        return self.free_keys.copy()

    def blocks(self, keys: Iterable[int]) -> list[Placed]:
        """Return the blocks with these keys."""
        mask, shift = self.mask, self.shift
        return [(key & mask, (key & mask) + (key >> shift)) for key in keys]

    def save(self) -> Saved:
        """Return the current state: the free blocks and the number of segments."""
        return self.free_keys.copy(), self.edges.copy(), len(self.segments)

    def restore(self, saved: Saved) -> None:
        """Free everything that was allocated since a saved state. Segments that were added stay."""
        self.free_keys, self.edges, count = saved
        for key in self.segments[count:]:
            address = key & self.mask
            self._add(address, address + (key >> self.shift))

    def grow_again(self, since: int, times: int, by: int, free: Iterable[int]) -> None:
        """Add the segments from number `since` on `times` more times, each time with addresses that are `by` higher.

        `free` are the keys of all blocks that are free afterwards.
        """
        self.add_again(since, times, by)
        self.set_free(free)

    def add_again(self, since: int, times: int, by: int) -> None:
        """Add the segments from number `since` on as `grow_again` does, but leave the free blocks as they are."""
        added = self.segments[since:]
        self.segments += [key + n * by for n in range(1, times + 1) for key in added]
        self.reserved += times * sum([key >> self.shift for key in added])
        self.next_address += times * by

    def set_free(self, keys: Iterable[int]) -> None:
        """Replace all free blocks."""
        self.free_keys, self.edges = sorted(keys), {}
        for address, end in self.blocks(self.free_keys):
            self.edges[address], self.edges[end] = end, address

    def take(self, blocks: Sequence[Placed]) -> None:
        """Allocate blocks at given addresses, which are free."""
        for address, behind in blocks:
            start, end = next(part for part in self.edges.items() if part[0] <= address < part[1])
            del self.edges[start]
            del self.edges[end]
            del self.free_keys[bisect_left(self.free_keys, end - start << self.shift | start)]
            self._add(start, address)
            self._add(behind, end)

    def _add(self, address: int, behind: int) -> None:
        if behind > address:
            self.edges[address] = behind
            self.edges[behind] = address
            insort(self.free_keys, behind - address << self.shift | address)

    def serves_all(self, sizes: Iterable[int]) -> bool:
        """Return whether free blocks serve all requests if none is freed before the last.

        Then allocating and freeing them changes nothing.
        """
        return next(self._unserved(self._free_sizes(), sizes), None) is None

    def allocate_and_free(self, layers: Iterable[Layer]) -> None:
        """Allocate blocks on an unlimited device, then free all of them. Only segments that are added remain."""
        free, added = self._free_sizes(), []
        for size in unserved(free, layers, partial(self._unserved, free)):
            segment, address = self._segment(size), self.next_address
            added.append(segment << self.shift | address)
            self.edges[address], self.edges[address + segment] = address + segment, address
            self.reserved += segment
            self.next_address += segment + 1
        self.segments += added
        self.free_keys = sorted([*self.free_keys, *added])

    def _free_sizes(self) -> list[int]:
        return [key >> self.shift for key in self.free_keys]

    def _unserved(self, free: list[int], sizes: Iterable[int]) -> Iterator[int]:
        """Yield the requests for which segments are added if none is freed before the last.

        `free` has the sizes of free blocks. It does not matter which of several blocks of one size is used.
        """
        waste = self.waste
        for size in sizes:
            place = bisect_left(free, size)
            try:
                rest = free[place] - size
            except IndexError:
                yield size
                free.append(self._segment(size))
                rest = free[place] - size
            if rest <= waste:
                del free[place]
            elif not place or free[place - 1] <= rest:
                free[place] = rest
            else:
                del free[place]
                insort(free, rest)

    def serves(self, condition: Condition) -> bool:
        """Return whether requests are certain to be served from free blocks, wherever live transients are placed."""
        return serves(self.free_keys, self.shift, condition, self.segments)

    def grow(self, size: int) -> Placed:
        """Add a segment for a request. Return the request's block.

        Raises:
            RefusedError: if the pool may not reserve as much.
        """
        segment = self._segment(size)
        if self.limit is not None and self.reserved + segment > self.limit:
            raise RefusedError
        address, end = self.next_address, self.next_address + segment
        self.next_address = end + 1
        self.reserved += segment
        self.segments.append(segment << self.shift | address)
        if segment - size <= self.waste:
            return address, end
        cut = address + size
        self.edges[cut] = end
        self.edges[end] = cut
        insort(self.free_keys, end - cut << self.shift | cut)
        return address, cut

    def _segment(self, size: int) -> int:
        """Return the size of the segment that is added for a request."""
        return segment_bytes(size * BLOCK) // BLOCK if self.waste else _SMALL_SEGMENT


def _runs(sizes: Sequence[int], times: int) -> tuple[list[Run], list[Run], list[Run]]:
    """Return each size and how often it comes in a row, in sizes that are repeated.

    The runs of the second list come once less than the sizes, between those of the other two.
    """
    (size, first), *between = [(size, len([*group])) for size, group in groupby(sizes)]
    if not between:
        return [(size, first * times)], [], []
    start, (last_size, last) = [(size, first), *between], between[-1]
    if size != last_size:
        return start, start, []
    return start[:-1], [(size, last + first), *between[:-1]], [between[-1]]


def _joined(blocks: Iterable[Placed]) -> list[Placed]:
    """Return blocks in order, with adjacent blocks merged. Both addresses of a row that is not placed are 0."""
    end_addresses = dict(blocks)
    # An address where one block ends and another begins is in both sets.
    ends = sorted({*end_addresses}.symmetric_difference(end_addresses.values()))
    return [*zip(ends[::2], ends[1::2], strict=True)]
