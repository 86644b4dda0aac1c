"""The free blocks that some events chose, and what the events left. Equal choices need not be played again.

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

The largest free block may have another size in `G`, if it stays the largest one: its last part is larger than every
other free part at all times, and all blocks that are not mapped are smaller. Then this part serves a request in either
state if nothing else does. For such requests, 3 applies as if they added a segment.

Stretches of temporaries that were certain to be served from `F` were not played. They are certain to be served from `G`
if it has as many blocks of each size: see `certain`, whose sums only become larger. They are also certain to be
served from the last part of the largest block, if it is large enough for all at once, wherever others are.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.flat_pool import FlatPool, Places


class Block(NamedTuple):
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


class Part(NamedTuple):
    """A part of a mapped block or of added segments: the number of the block, an offset, and a size."""

    block: int
    offset: int
    size: int


class Largest(NamedTuple):
    """The largest mapped block.

    Attributes:
        number: The number of the block.
        size: Its size.
        least: The least size of its last part.
        most: The size of the largest other part.
        unplayed: The size that is certain to serve the temporaries that were not played.
        part: The number of the part at its end among those that are free afterwards. -1 if there is none.
        intervals: The sizes that no other block may have if this one has another size.
    """

    number: int
    size: int
    least: int
    most: int
    unplayed: int
    part: int
    intervals: list[float]


class Choices:
    """Recorded events, which are repeated in states where they choose the same blocks."""

    __slots__ = (
        "_added",
        "_alive",
        "_blocks",
        "_changed",
        "_intervals",
        "_largest",
        "_left",
        "_mapped",
        "_ordered",
        "_sizes",
    )

    def __init__(
        self,
        blocks: list[Block],
        ordered: list[tuple[int, int]],
        sizes: Counter[int],
        mapped: Counter[int],
        intervals: list[float],
        changed: list[int],
        left: list[Part],
        alive: list[tuple[int, Part]],
        added: list[int],
        largest: Largest | None,
    ) -> None:
        self._blocks = blocks
        #: The numbers of mapped blocks whose order matters. The number after the last one is that of added segments.
        self._ordered = ordered
        #: How many free blocks of each size there have to be.
        self._sizes = sizes
        #: How many mapped blocks of each size there are.
        self._mapped = mapped
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
        self._largest = largest

    def repeat(self, pool: FlatPool, places: Places, by: int) -> bool:
        """Repeat the events for rows whose numbers are higher by `by`.

        Return whether they choose the same blocks. If they do not, nothing is done.
        """
        excess = self._excess(pool)
        starts = self._starts(pool, places, by, excess) if excess is not None else None
        if starts is None or excess is None:
            return False
        shift, edges = pool.shift, pool.edges
        changed = {self._size(n, excess) << shift | starts[n] for n in self._changed}
        for key in changed:
            address = key & ((1 << shift) - 1)
            del edges[address], edges[address + (key >> shift)]
        free = [key for key in pool.free_keys if key not in changed]
        last = self._largest.part if self._largest is not None else -1
        for number, (block, offset, size) in enumerate(self._left):
            address = starts[block] + offset
            end = address + size + (excess if number == last else 0)
            edges[address] = end
            edges[end] = address
            free.append(end - address << shift | address)
        free.sort()
        pool.free_keys = free
        addresses, end_addresses = places
        for row, (block, offset, size) in self._alive:
            addresses[row + by] = address = starts[block] + offset
            end_addresses[row + by] = address + size
        added = [key + pool.next_address for key in self._added]
        if added:
            pool.segments += added
            pool.reserved += sum([key >> shift for key in added])
            pool.next_address = (added[-1] & ((1 << shift) - 1)) + (added[-1] >> shift) + 1
        return True

    def _size(self, number: int, excess: int) -> int:
        """Return the size of a mapped block where the largest one is larger by `excess`."""
        is_largest = self._largest is not None and number == self._largest.number
        return self._blocks[number].size + (excess if is_largest else 0)

    def _excess(self, pool: FlatPool) -> int | None:
        """Return by how much the largest free block is larger.

        Return None if there are too few free blocks of a size, or if another block is chosen.
        """
        free, shift = pool.free_keys, pool.shift
        sizes, needed, intervals, excess = Counter([key >> shift for key in free]), self._sizes, self._intervals, 0
        largest = self._largest
        if largest is not None and free and free[-1] >> shift != largest.size:
            excess = (free[-1] >> shift) - largest.size
            others = [key >> shift for key in free[-2:-1]]
            least = largest.least + excess
            if least <= max(largest.most, pool.waste, *others) or least < largest.unplayed:
                return None
            sizes[free[-1] >> shift] -= 1
            sizes[largest.size] += 1
            needed, intervals = self._mapped, largest.intervals
        if not needed <= sizes:
            return None
        is_other = any(count > needed[size] and is_inside(size, intervals) for size, count in sizes.items())
        return None if is_other else excess

    def _starts(self, pool: FlatPool, places: Places, by: int, excess: int) -> list[int] | None:
        """Return the addresses of mapped blocks. Return None if their order or what is adjacent differs."""
        (addresses, end_addresses), edges = places, pool.edges
        free, mask = pool.free_keys, (1 << pool.shift) - 1
        starts = []
        for number, (size, rank, row, neighbors, _) in enumerate(self._blocks):
            if excess and self._largest is not None and number == self._largest.number:
                starts.append(free[-1] & mask)
                continue
            if row < 0:
                starts.append(free[bisect_left(free, size << pool.shift) + rank] & mask)
                continue
            address, end = addresses[row + by], end_addresses[row + by]
            if end - address != size or neighbors != (address in edges, end in edges):
                return None
            starts.append(address)
        numbers = {address: number for number, address in enumerate(starts)}
        if any(
            numbers.get(start + self._size(number, excess), -1) != self._blocks[number].following
            for number, start in enumerate(starts)
        ):
            return None
        starts.append(pool.next_address)
        return starts if all(starts[first] < starts[second] for first, second in self._ordered) else None


def joined(intervals: Iterable[tuple[int, float]]) -> list[float]:
    """Return the ends of intervals in order. Intervals that overlap or adjoin are joined."""
    ends: list[float] = []
    for start, end in sorted(intervals):
        if ends and start <= ends[-1]:
            ends[-1] = max(ends[-1], end)
        elif start < end:
            ends += [start, end]
    return ends


def is_inside(size: int, ends: Sequence[float]) -> bool:
    """Return whether a size is in one of the intervals with these ends."""
    return bisect_right(ends, size) % 2 == 1
