"""A record of which free blocks some events chose (see `choices`), from the places of their tensors."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import Counter
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.choices import Block, Choices, Largest, Part, is_inside, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed


class Start(NamedTuple):
    """The state of a pool where events start.

    It has the keys of free blocks, the address of the next segment, and the number of segments.
    """

    free: list[int]
    next_address: int
    segments: int

    @classmethod
    def from_pool(cls, pool: FlatPool) -> Start:
        """Return the state of a pool."""
        return cls(pool.free_keys.copy(), pool.next_address, len(pool.segments))


class Recorder:
    """Follows events whose places are known, from a state on."""

    __slots__ = (
        "_added",
        "_edges",
        "_freed",
        "_from_last",
        "_intervals",
        "_last",
        "_least",
        "_parts",
        "_pool",
        "_segments",
        "_start",
        "_touched",
        "_unplayed",
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
        #: The sizes of requests that were not played.
        self._unplayed: list[int] = []
        #: The end of the largest free block, and the sizes of requests that its last part served.
        self._last = sum([(key & mask) + (key >> shift) for key in start.free[-1:]])
        self._from_last = set[int]()

    def follow(self, steps: Iterable[tuple[int, int]], places: Sequence[Placed], freed: Mapping[int, int]) -> None:
        """Follow events.

        `steps` has the number of each event's tensor among `places`, and the size of the request, or 0 for a free. The
        address of a tensor that was not placed is 0. `freed` are the numbers and rows of tensors that were allocated
        before the state.
        """
        edges, whole, parts = self._edges, self._whole, self._parts
        touched, intervals, last = self._touched, self._intervals, self._last
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
                if end == last:
                    self._from_last.add(size)
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
                self._unplayed.append(size)
                continue
            parts.add((end - behind, behind))
            if end > behind:
                edges[behind] = end
                edges[end] = behind

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
        """Return the recorded choices, with the rows that are alive and their places.

        Return None if it cannot be mapped to another state.
        """
        sizes = Counter([key >> self._pool.shift for key in self._start.free])
        mapped = Counter([self._whole[address] - address for address in self._touched])
        intervals = joined(self._intervals)
        blocks = self._blocks()
        if any(0 <= block.rank >= mapped[block.size] for block in blocks) or any(
            is_inside(size, intervals) for size in sizes - mapped
        ):
            return None
        sizes = Counter({size: count for size, count in sizes.items() if size >= self._least or size in mapped})
        starts = sorted([*self._touched, *(address for address, _ in self._freed), self._start.next_address])

        def part(address: int, behind: int) -> Part:
            block = bisect_right(starts, address) - 1
            return Part(block, address - starts[block], behind - address)

        left = [(address, end) for address, end in self._edges.items() if address < end]
        unchanged = {address for address, end in left if self._whole.get(address) == end}
        parts = [block for block in left if block[0] not in unchanged]
        return Choices(
            blocks,
            self._ordered(starts),
            sizes if self._unplayed else mapped,
            mapped,
            intervals,
            [number for number, address in enumerate(starts) if address in self._touched - unchanged],
            [part(*block) for block in parts],
            [(row, part(*place)) for row, place in alive.items()],
            [key - self._start.next_address for key in self._segments],
            self._largest(blocks, starts, parts),
        )

    def _blocks(self) -> list[Block]:
        """Return the mapped blocks in the order of their addresses."""
        free, shift, whole = self._start.free, self._pool.shift, self._whole
        ends = {*whole.values()}
        found = sorted([*(((address, whole[address]), -1) for address in self._touched), *self._freed.items()])
        numbers = {address: number for number, ((address, _), _) in enumerate(found)}
        blocks = []
        for (address, end), row in found:
            size = end - address
            rank = bisect_left(free, size << shift | address) - bisect_left(free, size << shift) if row < 0 else -1
            blocks.append(Block(size, rank, row, (address in ends, end in whole), numbers.get(end, -1)))
        return blocks

    def _largest(self, blocks: list[Block], starts: list[int], left: list[Placed]) -> Largest | None:
        """Return the largest free block.

        Return None if it is not mapped or was not the largest at all times, or if a segment was added.
        """
        shift, mask = self._pool.shift, (1 << self._pool.shift) - 1
        address, size = next(((key & mask, key >> shift) for key in self._start.free[-1:]), (0, 0))
        if address not in self._touched or self._segments:
            return None
        number = starts.index(address)
        least = min([size, *(of_part for of_part, start in self._parts if start + of_part == self._last)])
        others = (of_part for of_part, start in self._parts if start + of_part != self._last)
        most = max([0, *others, *(self._whole[start] - start for start in self._touched - {address})])
        if least <= most or blocks[number].following >= 0:
            return None
        count, waste = len(self._unplayed), self._pool.waste
        unplayed = sum(self._unplayed) + count * (max(self._unplayed, default=0) + waste)
        part = next((n for n, (_, end) in enumerate(left) if end == self._last), -1)
        intervals = joined({*self._intervals, *((lower, inf) for lower in self._from_last)})
        return Largest(number, size, least, most, unplayed, part, intervals)

    def _ordered(self, starts: Sequence[int]) -> list[tuple[int, int]]:
        """Return the pairs of mapped blocks that had parts of one size."""
        wholes = {(self._whole[address] - address, address) for address in self._touched}
        numbers: dict[int, set[int]] = {}
        for size, address in self._parts | wholes:
            if size >= self._least:
                numbers.setdefault(size, set()).add(bisect_right(starts, address) - 1)
        return [*{pair for blocks in numbers.values() for pair in pairwise(sorted(blocks))}]
