"""The conditions under which requests are certain to fit into free blocks (see `certain`).

One number is enough if a free block is as large. It is computed for every gap at once. The exact condition is only
computed for the gaps for which no free block is.
"""

from __future__ import annotations

from itertools import accumulate, chain, pairwise
from operator import add, mul, sub
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.adapter_updates import updates
from calculator.allocator.gap_rests import gap_rests
from calculator.allocator.segments import BLOCK, SMALL_REQUEST

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from calculator.allocator.certain import Needs
    from calculator.allocator.chunks import Chunk, Repeated
    from calculator.allocator.gap_rests import GapRests

#: The largest size in a small pool, and the largest remainder of a large block that is not split off.
_SMALL = SMALL_REQUEST // BLOCK
#: Of items with more allocations, the need of the largest size is read first.
_MANY = 24


class Need:
    """The condition under which some requests are certain to be served from free blocks (see `certain`)."""

    __slots__ = ("_needs", "are_freed", "most_lost", "sizes", "sufficient_size")

    def __init__(self, sufficient_size: int, sizes: dict[int, int], *, are_freed: bool = True) -> None:
        """Keep the most that is lost for each size.

        `are_freed`: whether some of the requests may be freed before the last.
        """
        self.sufficient_size = sufficient_size
        self.are_freed = are_freed
        #: For each size, the most that is lost. A size is left out if a larger one needs at least as much.
        self.sizes: dict[int, int] = {}
        found: list[tuple[int, int, int]] = []
        for size in sorted(sizes, reverse=True):
            lost, least = sizes[size], size if are_freed else 1
            for larger, lost_for_larger, most in found:
                # What counts for a free block is more for the larger size only if it is the least that is lost there.
                # For the size, it is at least `larger - size + 1` then.
                if lost * most <= lost_for_larger * min(most, max(larger - size + 1, least)):
                    break
            else:
                found.append((size, lost, least))
                self.sizes[size] = lost
        self.most_lost = max(sizes.values(), default=-1)
        self._needs = tuple(found)

    def needs(self) -> Needs:
        """Return each size with the most that is lost, and with the least that is lost in a free block."""
        return self._needs

    def merges(self) -> bool:
        """Return False: only these tensors are freed."""
        return False

    @classmethod
    def from_sizes(cls, sizes: Sequence[int]) -> Need:
        """Return the need of requests of which none is freed before the last.

        Each is placed at the start of a free block. So what is left of a free block is one part at its end. If no part
        of size `s` is left, the requests and what they waste fill at least `f - s + 1` of each free block `f`.
        """
        distinct, total, lost = len({*sizes}), sum(sizes) + len(sizes) * _SMALL, dict[int, int]()
        sufficient_size = max(0, total - _SMALL)
        # Of the requests of a size, most is lost for the last one.
        for size in reversed(sizes):
            total -= size + _SMALL
            if size not in lost:
                lost[size] = total
            if len(lost) == distinct:
                break
        return cls(sufficient_size, lost, are_freed=False)


class Allocations(NamedTuple):
    """The allocations of all transients of a pool, chunk after chunk.

    Attributes:
        events: The events of the transients.
        positions: The indices of the allocations among these.
        rows: Their rows.
        counts: The number of transients that are alive before each.
        starts: The index of the first allocation of each chunk, and the number of all.
    """

    events: list[int]
    positions: list[int]
    rows: list[int]
    counts: list[int]
    starts: list[int]

    @classmethod
    def of(cls, chunks: Sequence[Chunk]) -> Allocations:
        """Return the allocations of chunks in order."""
        events = [*chain.from_iterable([chunk.transients for chunk in chunks])]
        positions = [at for at, event in enumerate(events) if event >= 0]
        counts = [chunk.counts for chunk in chunks]
        return cls(
            events,
            positions,
            [*map(events.__getitem__, positions)],
            [*chain.from_iterable(counts)],
            [*accumulate(map(len, counts), initial=0)],
        )


class ChunkNeeds:
    """The needs of the transients of each chunk. All that are alive at a time count, each with the most that it wastes.

    Attributes:
        sufficient_size: For each chunk, the size of a free block that is certain to serve its transients.
        most_lost: For each chunk, the most that can be lost.
        sizes: The sizes of all rows.
        waste: The most that a tensor wastes.
    """

    __slots__ = ("_known", "_lost", "_sizes", "_starts", "most_lost", "sizes", "sufficient_size", "waste")

    def __init__(self, allocations: Allocations, sizes: Sequence[int], waste: int) -> None:
        added = [sizes[event] + waste if event >= 0 else -sizes[~event] - waste for event in allocations.events]
        alive = [*accumulate(added, initial=0)]
        self.sizes, self.waste = sizes, waste
        self._starts, counts = allocations.starts, allocations.counts
        self._sizes = [*map(sizes.__getitem__, allocations.rows)]
        before = [*map(add, map(alive.__getitem__, allocations.positions), map(mul, counts, self._sizes))]
        needed, self._lost = [*map(add, before, self._sizes)], [*map(sub, before, counts)]
        chunks = [slice(*bounds) for bounds in pairwise(self._starts)]
        self.sufficient_size = [max(needed[chunk], default=0) for chunk in chunks]
        self.most_lost = [max(self._lost[chunk], default=-1) for chunk in chunks]
        #: The most that is lost for each size, by the numbers of chunks, once it is read.
        self._known: dict[int, dict[int, int]] = {}

    def is_known(self, number: int) -> bool:
        """Return whether the need of a chunk is known."""
        return number in self._known

    def largest(self, number: int) -> tuple[int, int]:
        """Return the largest size that a chunk requests, and the most that is lost for it."""
        own = slice(*self._starts[number : number + 2])
        return max(zip(self._sizes[own], self._lost[own], strict=True))

    def of(self, numbers: Collection[int]) -> Need:
        """Return the need of chunks, one after the other."""
        lost = dict[int, int]()
        for number in numbers:
            for size, of_size in self._lost_of(number).items():
                if of_size >= lost.get(size, 0):
                    lost[size] = of_size
        return Need(max([self.sufficient_size[number] for number in numbers], default=0), lost)

    def _lost_of(self, number: int) -> dict[int, int]:
        """Return the most that is lost for each size in a chunk."""
        if number not in self._known:
            lost = self._known[number] = {}
            own = slice(*self._starts[number : number + 2])
            for size, of_request in zip(self._sizes[own], self._lost[own], strict=True):
                if of_request >= lost.get(size, 0):
                    lost[size] = of_request
        return self._known[number]


class StretchNeeds:
    """For each item of a pass, the needs of all gaps from there up to the end of its stretch.

    Attributes:
        sufficient_size: For each item, the size of a free block that is certain to serve all transients of these gaps.
        most_lost: For each item, the most that can be lost in these gaps.
    """

    __slots__ = (
        "_chunks",
        "_gap_rests",
        "_known",
        "_numbers",
        "_of_chunks",
        "_updates",
        "most_lost",
        "sufficient_size",
    )

    def __init__(self, repeated: Repeated, of_chunks: ChunkNeeds) -> None:
        self._chunks = [chunk for chunk, _, _ in repeated]
        self._of_chunks = of_chunks
        #: The numbers of the chunks from each item up to the end of its stretch, and the needs of such chunks.
        self._numbers: dict[int, frozenset[int]] = {}
        self._known: dict[frozenset[int], Needs] = {}
        #: The rests of gaps by the numbers of chunks.
        self._gap_rests: dict[int, GapRests | None] = {}
        #: Where updates of adapters begin, by the numbers of chunks.
        self._updates: dict[int, list[int]] = {}
        self.sufficient_size, self.most_lost = self._ahead()

    def _ahead(self) -> tuple[list[int], list[int]]:
        """Return the largest numbers of the gaps from each item up to the end of its stretch."""
        sufficient_sizes, all_lost = self._of_chunks.sufficient_size, self._of_chunks.most_lost
        sizes, losses, size_ahead, lost_ahead = list[int](), list[int](), 0, 0
        for chunk in reversed(self._chunks):
            size, lost = sufficient_sizes[chunk.number], all_lost[chunk.number]
            size_ahead = size if chunk.ends_stretch or size > size_ahead else size_ahead
            lost_ahead = lost if chunk.ends_stretch or lost > lost_ahead else lost_ahead
            sizes.append(size_ahead)
            losses.append(lost_ahead)
        return sizes[::-1], losses[::-1]

    def of(self, number: int) -> Needs:
        """Return the needs from an item on."""
        chunks = self._ahead_of(number)
        if chunks not in self._known:
            self._known[chunks] = self._of_chunks.of(chunks).needs()
        return self._known[chunks]

    def _ahead_of(self, number: int) -> frozenset[int]:
        """Return the numbers of the chunks with allocations from an item up to the end of its stretch."""
        if number not in self._numbers:
            ahead = frozenset[int]()
            for n in range(self._end(number), number - 1, -1):
                chunk = self._chunks[n]
                if chunk.allocates and chunk.number not in ahead:
                    ahead |= {chunk.number}
                self._numbers[n] = ahead
        return self._numbers[number]

    def is_long(self, number: int) -> bool:
        """Return whether an item has many allocations of which the needs are not known."""
        chunk = self._chunks[number]
        return len(chunk.counts) > _MANY and not self._of_chunks.is_known(chunk.number)

    def largest(self, number: int) -> tuple[int, int, int]:
        """Return the first of the needs from an item on, which is that of the largest size."""
        size, lost = max(map(self._of_chunks.largest, self._ahead_of(number)))
        return size, lost, size

    def merges(self, number: int) -> bool:
        """Return whether a gap from an item on frees placed tensors."""
        return any(chunk.frees for chunk in self._chunks[number : self._end(number) + 1])

    def gap_rests(self, number: int, lowest: int) -> GapRests | None:
        """Return the rests of an item's gap, if these are left out.

        `lowest` is the lowest row that differs from repetition to repetition.
        """
        chunk, of_chunks = self._chunks[number], self._of_chunks
        if chunk.number not in self._gap_rests:
            rests = gap_rests(self._chunks, number, of_chunks.sizes, of_chunks.waste, lowest)
            self._gap_rests[chunk.number] = rests
        return self._gap_rests[chunk.number]

    def updates(self, number: int) -> list[int]:
        """Return where updates of adapters begin in an item, counted from the end."""
        chunk = self._chunks[number]
        if chunk.number not in self._updates:
            self._updates[chunk.number] = updates(chunk.placed, self._of_chunks.sizes)
        return self._updates[chunk.number]

    def _end(self, number: int) -> int:
        """Return the last item of a stretch."""
        end = number
        while end + 1 < len(self._chunks) and not self._chunks[end].ends_stretch:
            end += 1
        return end
