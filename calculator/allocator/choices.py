"""The free blocks that some events chose, and what the events left. Where they choose alike, they need not be played.

A request of `r` is served by the smallest free block of at least `r`, of size `c`, and among equal ones by the first.
Let events be played from a state `F`. They touch some of its free blocks: they allocate from them, or free a neighbor.
The same events are to be played from a state `G`, which maps onto `F` as follows:

1. The touched blocks of each size are the first ones of that size in `F`. They map to the first ones in `G`. Tensors
   that were allocated before and are freed by the events map to those that are freed in `G`. They have equal sizes.
2. The same mapped blocks and tensors are adjacent as in `F`. A freed tensor has free neighbors on the same sides, which
   are mapped. Where parts of equal sizes were free in several, these have the same order of addresses.
3. No block of `G` that is not mapped has a size in `r, ..., c - 1` for any request. The same is true of `c` if what
   served the request was not a whole touched block, but a part of one, or of a segment that the events added. If a
   request added a segment, no block that is not mapped is as large as the request.

Then each request is served in `G` by what maps to the block that served it in `F`. For if all earlier ones were, the
parts of mapped blocks are the same in both. Of these, the same one is chosen, because the order of addresses is the
same too. By 3, no other block is smaller and fits. By 1, other blocks of the size of a whole touched block come after
it. So the events leave mapped blocks as in `F`, and do not change others. Added segments come after all other blocks,
in both states.

Stretches of temporaries that were certain to be served from `F` were not played. They are certain to be served from `G`
if it has as many blocks of each size: see `FlatPool.serves`, whose sums only become larger.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed, Places


class Start(NamedTuple):
    """The state of a pool where events start.

    It has the keys of free blocks, the address of the next segment, and the number of segments.
    """

    free: list[int]
    next_address: int
    segments: int

    @classmethod
    def of(cls, pool: FlatPool) -> Start:
        """Return the state of a pool."""
        return cls(pool.free_keys.copy(), pool.next_address, len(pool.segments))


class _Block(NamedTuple):
    """A mapped free block, or a mapped tensor that the events free.

    Attributes:
        size: The size of the block.
        rank: The number of free blocks of this size with lower addresses. -1 for a tensor.
        row: The row of a tensor. -1 for a free block.
        neighbors: Whether a free block ends where a tensor begins, and whether one begins where it ends.
        following: The number of the mapped block that begins where this one ends. -1 if there is none.
    """

    size: int
    rank: int
    row: int
    neighbors: tuple[bool, bool]
    following: int


class _Part(NamedTuple):
    """A part of a mapped block or of added segments: the number of the block, an offset, and a size."""

    block: int
    offset: int
    size: int


class Recorder:
    """Follows events whose places are known, from a state on."""

    __slots__ = (
        "_added",
        "_edges",
        "_freed",
        "_intervals",
        "_is_complete",
        "_least",
        "_parts",
        "_pool",
        "_segments",
        "_start",
        "_touched",
        "_whole",
    )

    def __init__(self, pool: FlatPool, start: Start, least: int) -> None:
        """Set up a recorder of events that the pool has played since a state.

        `least`: the size of the smallest request.
        """
        mask, shift = (1 << pool.shift) - 1, pool.shift
        self._least = least
        self._pool = pool
        self._start = start
        #: The keys of the segments that were added, and their ends by their starts until they are first used.
        self._segments = pool.segments[start.segments :]
        self._added = {key & mask: (key & mask) + (key >> shift) for key in self._segments}
        #: The ends of free blocks of the state, by their starts.
        self._whole = {key & mask: (key & mask) + (key >> shift) for key in start.free}
        #: The end of each free block by its start, and the start by its end.
        self._edges = self._whole | {end: address for address, end in self._whole.items()}
        self._touched = set[int]()
        #: Tensors that were allocated before: their rows by their places.
        self._freed: dict[Placed, int] = {}
        #: For each request, the sizes of free blocks that would have served it instead: the least, and the end.
        self._intervals = set[tuple[int, float]]()
        #: The sizes and addresses of parts that were free.
        self._parts: set[Placed] = set()
        #: Whether all events were played.
        self._is_complete = True

    def follow(self, steps: Iterable[tuple[int, int]], places: Sequence[Placed], freed: Mapping[int, int]) -> None:
        """Follow events.

        `steps` has the number of each event's tensor among `places`, and the size of the request, or 0 for a free. The
        address of a tensor that was not placed is 0. `freed` are the numbers and rows of tensors that were allocated
        before the state.
        """
        edges, whole, parts = self._edges, self._whole, self._parts
        touched, intervals = self._touched, self._intervals
        self._freed.update({places[number]: row for number, row in freed.items()})
        # The temporaries of stretches that were not played have no places.
        unplayed = set[int]()
        for number, size in steps:
            address, behind = places[number]
            if not size:
                if number not in unplayed:
                    self._free(address, behind)
                continue
            end = edges.get(address, 0)
            if address < end >= behind:
                if whole.get(address) == end:
                    touched.add(address)
                    intervals.add((size, end - address))
                else:
                    intervals.add((size, end - address + 1))
                del edges[address], edges[end]
            elif address in self._added:
                end = self._added.pop(address)
                intervals.add((size, inf))
            else:
                unplayed.add(number)
                continue
            if end > behind:
                edges[behind] = end
                edges[end] = behind
                parts.add((end - behind, behind))
        self._is_complete = self._is_complete and not unplayed

    def _free(self, address: int, behind: int) -> None:
        edges, whole, start, end = self._edges, self._whole, address, behind
        if behind in edges:
            end = edges.pop(behind)
            if whole.get(behind) == end:
                self._touched.add(behind)
        if address in edges:
            start = edges.pop(address)
            if whole.get(start) == address:
                self._touched.add(start)
        edges[start] = end
        edges[end] = start
        self._parts.add((end - start, start))

    def choices(self, alive: Mapping[int, Placed]) -> Choices | None:
        """Return what was recorded, with the rows that are alive and their places.

        Return None if it cannot be mapped to another state.
        """
        sizes = Counter([key >> self._pool.shift for key in self._start.free])
        mapped = Counter([self._whole[address] - address for address in self._touched])
        intervals = _joined(self._intervals)
        blocks = self._blocks()
        if any(0 <= block.rank >= mapped[block.size] for block in blocks) or any(
            _is_inside(size, intervals) for size in sizes - mapped
        ):
            return None
        sizes = Counter({size: count for size, count in sizes.items() if size >= self._least or size in mapped})
        starts = sorted([*self._touched, *(address for address, _ in self._freed), self._start.next_address])

        def part(address: int, behind: int) -> _Part:
            block = bisect_right(starts, address) - 1
            return _Part(block, address - starts[block], behind - address)

        left = [(address, end) for address, end in self._edges.items() if address < end]
        unchanged = {address for address, end in left if self._whole.get(address) == end}
        return Choices(
            blocks,
            self._ordered(starts),
            mapped if self._is_complete else sizes,
            intervals,
            [number for number, address in enumerate(starts) if address in self._touched - unchanged],
            [part(address, end) for address, end in left if address not in unchanged],
            [(row, part(*place)) for row, place in alive.items()],
            [key - self._start.next_address for key in self._segments],
        )

    def _blocks(self) -> list[_Block]:
        """Return the mapped blocks in the order of their addresses."""
        free, shift, whole = self._start.free, self._pool.shift, self._whole
        ends = {*whole.values()}
        found = sorted([*(((address, whole[address]), -1) for address in self._touched), *self._freed.items()])
        numbers = {address: number for number, ((address, _), _) in enumerate(found)}
        blocks = []
        for (address, end), row in found:
            size = end - address
            rank = bisect_left(free, size << shift | address) - bisect_left(free, size << shift) if row < 0 else -1
            blocks.append(_Block(size, rank, row, (address in ends, end in whole), numbers.get(end, -1)))
        return blocks

    def _ordered(self, starts: Sequence[int]) -> list[tuple[int, int]]:
        """Return the pairs of mapped blocks that had parts of one size."""
        wholes = {(self._whole[address] - address, address) for address in self._touched}
        numbers: dict[int, set[int]] = {}
        for size, address in self._parts | wholes:
            if size >= self._least:
                numbers.setdefault(size, set()).add(bisect_right(starts, address) - 1)
        return [*{pair for each in numbers.values() for pair in pairwise(sorted(each))}]


class Choices:
    """Recorded events, which are repeated in states where they choose alike."""

    __slots__ = ("_added", "_alive", "_blocks", "_changed", "_intervals", "_left", "_ordered", "_sizes")

    def __init__(
        self,
        blocks: list[_Block],
        ordered: list[tuple[int, int]],
        sizes: Counter[int],
        intervals: list[float],
        changed: list[int],
        left: list[_Part],
        alive: list[tuple[int, _Part]],
        added: list[int],
    ) -> None:
        self._blocks = blocks
        #: The numbers of mapped blocks whose order matters. The number after the last one is that of added segments.
        self._ordered = ordered
        #: How many free blocks of each size there have to be.
        self._sizes = sizes
        #: The sizes that no other block may have: the ends of intervals.
        self._intervals = intervals
        #: The numbers of the mapped blocks that are not free afterwards, or have merged.
        self._changed = changed
        #: The blocks that are free afterwards, apart from those that were before.
        self._left = left
        #: The rows that are alive afterwards.
        self._alive = alive
        #: The keys of added segments, with their addresses relative to the next address.
        self._added = added

    def repeat(self, pool: FlatPool, places: Places, by: int) -> bool:
        """Do what the events do for rows that are higher by some number.

        Return whether they choose alike. If they do not, nothing is done.
        """
        starts = self._starts(pool, places, by) if self._is_alike(pool) else None
        if starts is None:
            return False
        shift, edges = pool.shift, pool.edges
        changed = {self._blocks[n].size << shift | starts[n] for n in self._changed}
        for key in changed:
            address = key & ((1 << shift) - 1)
            del edges[address], edges[address + (key >> shift)]
        free = [key for key in pool.free_keys if key not in changed]
        for block, offset, size in self._left:
            address = starts[block] + offset
            edges[address] = address + size
            edges[address + size] = address
            free.append(size << shift | address)
        free.sort()
        pool.free_keys = free
        addresses, behinds = places
        for row, (block, offset, size) in self._alive:
            addresses[row + by] = address = starts[block] + offset
            behinds[row + by] = address + size
        added = [key + pool.next_address for key in self._added]
        if added:
            pool.segments += added
            pool.reserved += sum([key >> shift for key in added])
            pool.next_address = (added[-1] & ((1 << shift) - 1)) + (added[-1] >> shift) + 1
        return True

    def _is_alike(self, pool: FlatPool) -> bool:
        """Return whether there are enough free blocks of each size, and no other block is chosen."""
        sizes = Counter([key >> pool.shift for key in pool.free_keys])
        return self._sizes <= sizes and not any(
            count > self._sizes[size] and _is_inside(size, self._intervals) for size, count in sizes.items()
        )

    def _starts(self, pool: FlatPool, places: Places, by: int) -> list[int] | None:
        """Return the addresses of mapped blocks. Return None if their order or what is adjacent differs."""
        (addresses, behinds), edges = places, pool.edges
        free, mask = pool.free_keys, (1 << pool.shift) - 1
        starts = []
        for size, rank, row, neighbors, _ in self._blocks:
            if row < 0:
                starts.append(free[bisect_left(free, size << pool.shift) + rank] & mask)
                continue
            address, end = addresses[row + by], behinds[row + by]
            if end - address != size or neighbors != (address in edges, end in edges):
                return None
            starts.append(address)
        numbers = {address: number for number, address in enumerate(starts)}
        if any(
            numbers.get(start + block.size, -1) != block.following
            for start, block in zip(starts, self._blocks, strict=True)
        ):
            return None
        starts.append(pool.next_address)
        return starts if all(starts[first] < starts[second] for first, second in self._ordered) else None


def _joined(intervals: Iterable[tuple[int, float]]) -> list[float]:
    """Return the ends of intervals in order. Intervals that overlap or adjoin are joined."""
    ends: list[float] = []
    for start, end in sorted(intervals):
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        elif start < end:
            ends += [start, end]
    return ends


def _is_inside(size: int, ends: Sequence[float]) -> bool:
    """Return whether a size is in one of the intervals with these ends."""
    return bisect_right(ends, size) % 2 == 1
