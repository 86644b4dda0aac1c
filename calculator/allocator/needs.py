"""What requests need to be certain to fit into free blocks (see `FlatPool.serves`).

One number is enough if a free block is as large. It is computed for every gap at once. The exact condition is only
computed for the gaps for which no free block is.
"""

from __future__ import annotations

from itertools import accumulate, groupby, pairwise
from operator import add, mul
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.segments import BLOCK, SMALL_REQUEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.chunks import Chunk, Repeated
    from calculator.allocator.flat_pool import Needs

#: The largest size in a small pool, and the largest remainder of a large block that is not split off.
_SMALL = SMALL_REQUEST // BLOCK


class Need:
    """The condition under which some requests are certain to be served from free blocks (see `FlatPool.serves`)."""

    __slots__ = ("_needs", "are_freed", "sizes", "sufficient_size")

    def __init__(self, sufficient_size: int, sizes: dict[int, int], *, are_freed: bool = True) -> None:
        """Keep the most that is lost for each size.

        `are_freed`: whether some of the requests may be freed before the last.
        """
        self.sufficient_size = sufficient_size
        self.are_freed = are_freed
        #: For each size, the most that is lost. A size is left out if a larger one needs at least as much.
        self.sizes: dict[int, int] = {}
        for size in sorted(sizes, reverse=True):
            if not any(self._needs_less(size, sizes[size], *larger) for larger in self.sizes.items()):
                self.sizes[size] = sizes[size]
        self._needs = tuple([(size, lost, self._least(size)) for size, lost in self.sizes.items()])

    def _least(self, size: int) -> int:
        """Return the least that is lost in a free block without a part of a size left."""
        return size if self.are_freed else 1

    def _needs_less(self, size: int, lost: int, larger: int, lost_for_larger: int) -> bool:
        """Return whether a size is certain to be served where a larger one is.

        What counts for a free block is more for the larger size only if it is the least. For the size, it is at least
        `larger - size + 1` then.
        """
        most = self._least(larger)
        return lost * most <= lost_for_larger * min(most, max(larger - size + 1, self._least(size)))

    def needs(self) -> Needs:
        """Return each size with the most that is lost, and with the least that is lost in a free block."""
        return self._needs

    @classmethod
    def of_sizes(cls, sizes: Iterable[int]) -> Need:
        """Return the need of requests of which none is freed before the last.

        Each is placed at the start of a free block. So what is left of a free block is one part at its end. If no part
        of size `s` is left, the requests and what they waste fill at least `f - s + 1` of each free block `f`.
        """
        total, sufficient_size, lost = 0, 0, dict[int, int]()
        for size, group in groupby(sizes):
            total += len([*group]) * (size + _SMALL)
            lost[size] = total - size - _SMALL
            sufficient_size = max(sufficient_size, total - _SMALL)
        return cls(sufficient_size, lost, are_freed=False)

    def together(self, other: Need) -> Need:
        """Return the need of both, one after the other."""
        sizes = {size: max(self.sizes.get(size, 0), other.sizes.get(size, 0)) for size in self.sizes | other.sizes}
        both = Need(max(self.sufficient_size, other.sufficient_size), sizes)
        return other if (both.sufficient_size, both.needs()) == (other.sufficient_size, other.needs()) else both


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
        events = [event for chunk in chunks for event in chunk.transients]
        positions = [at for at, event in enumerate(events) if event >= 0]
        alive = [*accumulate([1 if event >= 0 else -1 for event in events], initial=0)]
        allocated = [sum([event >= 0 for event in chunk.transients]) for chunk in chunks]
        return cls(
            events,
            positions,
            [events[at] for at in positions],
            [alive[at] for at in positions],
            [*accumulate(allocated, initial=0)],
        )


class ChunkNeeds:
    """The needs of the transients of each chunk. All that are alive at a time count, each with the most that it wastes.

    Attributes:
        sufficient_size: For each chunk, the size of a free block that is certain to serve its transients.
    """

    __slots__ = ("_allocations", "_known", "_lost", "_sizes", "sufficient_size")

    def __init__(self, allocations: Allocations, sizes: Sequence[int], waste: int) -> None:
        added = [sizes[event] + waste if event >= 0 else -sizes[~event] - waste for event in allocations.events]
        alive = [*accumulate(added, initial=0)]
        self._allocations = allocations
        self._sizes = [*map(sizes.__getitem__, allocations.rows)]
        margins = map(mul, allocations.counts, self._sizes)
        self._lost = [*map(add, map(alive.__getitem__, allocations.positions), margins)]
        needed = [*map(add, self._lost, self._sizes)]
        self.sufficient_size = [max(needed[start:end], default=0) for start, end in pairwise(allocations.starts)]
        self._known: dict[int, Need] = {}

    def of(self, number: int) -> Need:
        """Return the need of a chunk."""
        if number not in self._known:
            start, end = self._allocations.starts[number : number + 2]
            lost: dict[int, int] = {}
            for at in range(start, end):
                size, wasted = self._sizes[at], self._lost[at] - self._allocations.counts[at]
                lost[size] = max(lost.get(size, -1), wasted)
            self._known[number] = Need(self.sufficient_size[number], lost)
        return self._known[number]


class StretchNeeds:
    """For each item of a pass, the needs of all gaps from there up to the end of its stretch.

    Attributes:
        sufficient_size: For each item, the size of a free block that is certain to serve all transients of these gaps.
    """

    __slots__ = ("_chunks", "_known", "_of_chunks", "_together", "sufficient_size")

    def __init__(self, repeated: Repeated, of_chunks: ChunkNeeds) -> None:
        self._chunks = [chunk for chunk, _, _ in repeated]
        self._of_chunks = of_chunks
        self._known: dict[int, Need] = {}
        #: The needs of two, by their identities. Most layers have the same.
        self._together: dict[tuple[int, int], Need] = {}
        sufficient_size, ahead = of_chunks.sufficient_size, 0
        self.sufficient_size = [0] * len(self._chunks)
        for n in reversed(range(len(self._chunks))):
            chunk = self._chunks[n]
            own = sufficient_size[chunk.number]
            ahead = own if chunk.ends_stretch or own > ahead else ahead
            self.sufficient_size[n] = ahead

    def of(self, number: int) -> Needs:
        """Return the needs from an item on."""
        if number not in self._known:
            end = number
            while end + 1 < len(self._chunks) and not self._chunks[end].ends_stretch:
                end += 1
            ahead: Need | None = None
            for n in range(end, number - 1, -1):
                need = self._of_chunks.of(self._chunks[n].number)
                if ahead is not None:
                    key = id(need), id(ahead)
                    if key not in self._together:
                        self._together[key] = need.together(ahead)
                    need = self._together[key]
                ahead = self._known[n] = need
        return self._known[number].needs()
