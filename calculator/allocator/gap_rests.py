"""Long gaps that are repeated (see `transients`), of which only the beginning is played.

If all transients of a gap end in it, it leaves the blocks that were free before it, and those that it frees. The only
other trace are the segments that it adds. So the gap is played up to an event from which its rest is certain to fit
(see `certain`). Then everything that was allocated is freed at once.

Few of the tensors that are alive at a later request were allocated since such an event. It is sought where they become
fewer for the largest requests.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, compress
from operator import invert, itemgetter, mul
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.chunks import Chunk
    from calculator.allocator.flat_pool import FlatPool, Places, Saved
    from calculator.allocator.transients import Item

#: The least number of events of a gap, and the least number of repetitions.
_MIN_EVENTS = 64
_MIN_REPETITIONS = 4
#: The least number of events between two events from which the rest may be certain to fit.
_APART = 8


class _Rest(NamedTuple):
    """A rest of a gap.

    Attributes:
        start: The index of its first event.
        alive: The most of its tensors that are alive at a request of the largest size.
    """

    start: int
    alive: int


class _Need(NamedTuple):
    """What a rest needs for the requests of a size.

    Attributes:
        size: The size.
        alive: The most tensors of the rest that are alive at such a request.
        lost: The most that is lost.
        most: The most tensors that are alive at a request of this or of a smaller size.
    """

    size: int
    alive: int
    lost: int
    most: int


class GapRests:
    """The rests of a gap that may be certain to fit."""

    __slots__ = (
        "_births",
        "_counts",
        "_first",
        "_frees",
        "_gap",
        "_largest",
        "_needs",
        "_requests",
        "_rests",
        "_shifted",
        "_sizes",
    )

    def __init__(self, gap: Sequence[int], sizes: Sequence[int], waste: int, lowest: int = 0) -> None:
        """Find the rests.

        `waste` is the most that is lost at the end of a tensor's block. `lowest` is the lowest row that differs from
        repetition to repetition.
        """
        #: For each event, the index of the tensor's allocation, or -1 if that is before the gap.
        self._births: list[int] = []
        allocates = [*map((0).__le__, gap)]
        largest = self._largest = max(map(sizes.__getitem__, compress(gap, allocates)))
        alive: dict[int, int] = {}
        #: The allocations of tensors that are alive at requests of the largest size; and the requests of each size.
        before: list[list[int]] = []
        requests: dict[int, list[int]] = {}
        for at, event in enumerate(gap):
            if event >= 0:
                size = sizes[event]
                if size == largest:
                    before.append([*alive.values()])
                requests.setdefault(size, []).append(at)
                alive[event] = at
                self._births.append(at)
            else:
                self._births.append(alive.pop(~event, -1))
        self._requests = sorted(requests.items(), reverse=True)
        #: The number of frees of tensors that were allocated before the gap.
        self._frees = self._births.count(-1)
        self._gap = gap
        #: The number of events before the first one whose row differs from repetition to repetition.
        shifted = compress(range(len(gap)), map(lowest.__le__, map(max, gap, map(invert, gap))))
        self._shifted = next(shifted, len(gap))
        #: For each event, by how much it changes the number and the sizes of live tensors.
        self._counts = [*map((-1, 1).__getitem__, allocates)]
        self._sizes = [sizes[event] + waste if event >= 0 else -sizes[~event] - waste for event in gap]
        self._rests = _found(before, requests[largest][-1])
        #: The needs of rests by their numbers, once they are read.
        self._needs: dict[int, list[_Need]] = {}
        #: The number of the first rest to try. In the next repetition, an earlier one may be certain to fit.
        self._first = 0

    def play(self, pool: FlatPool, item: Item, sizes: Sequence[int], places: Places) -> None:
        """Play the events of a repetition, without the rest of the gap if that is certain to fit."""
        saved, events, at = pool.save(), self._gap, 0
        regions: list[int] = []
        for number in range(self._first, len(self._rests)):
            start = self._rests[number].start
            if start > self._shifted and events is self._gap:
                events = item.played(skips=False)
            pool.play(events[at:start], sizes, places)
            at = start
            if not self._may_serve(pool, number):
                continue
            regions = regions or self._regions(pool, saved, item.played(skips=True)[: self._frees], places)
            if self._serves(pool, number, regions):
                self._first = max(0, number - 2)
                pool.restore(saved)
                pool.play(item.played(skips=True), sizes, places)
                return
        pool.play(item.played(skips=False)[at:], sizes, places)

    def _may_serve(self, pool: FlatPool, number: int) -> bool:
        """Return False if requests of the largest size are not certain to be served."""
        free, largest = pool.free_keys, self._largest
        fitting = len(free) - bisect_left(free, largest << pool.shift)
        # Fewer blocks may be enough if one of them serves several requests.
        return fitting > self._rests[number].alive or (fitting > 0 and free[-1] >> pool.shift >= 2 * largest)

    @staticmethod
    def _regions(pool: FlatPool, saved: Saved, frees: Sequence[int], places: Places) -> list[int]:
        """Return the starts of regions inside of which blocks may merge.

        These are the blocks that were free before the gap, and the segments that it added. A row that is freed may
        merge the blocks on both sides.
        """
        _, end_addresses = places
        mask, merged = (1 << pool.shift) - 1, {end_addresses[~event] for event in frees}
        return sorted({*map(mask.__and__, (*saved[0], *pool.segments[saved[2] :]))} - merged)

    def _serves(self, pool: FlatPool, number: int, regions: Sequence[int]) -> bool:
        """Return whether a rest is certain to be served from free blocks, which only merge inside of regions."""
        free, shift, mask = pool.free_keys, pool.shift, (1 << pool.shift) - 1
        total, before, found = 0, len(free), set[int]()
        for size, alive, lost, most in self._needs_of(number):
            first = bisect_left(free, size << shift)
            for key in free[first:before]:
                total += key >> shift
                found.add(bisect_right(regions, key & mask))
            before = first
            if len(found) > most:
                return True
            if len(found) <= alive and total - (len(free) - first) * (size - 1) <= lost:
                return False
        return True

    def _needs_of(self, number: int) -> list[_Need]:
        """Return the needs of a rest, the largest size first."""
        if number not in self._needs:
            start, needs = self._rests[number].start, list[_Need]()
            own = [*map(start.__le__, self._births[start:])]
            alive = [0] * start + [*accumulate(map(mul, own, self._counts[start:]), initial=0)]
            taken = [0] * start + [*accumulate(map(mul, own, self._sizes[start:]), initial=0)]
            most = 0
            for size, requests in reversed(self._requests):
                later = requests[bisect_left(requests, start) :]
                if later:
                    read = itemgetter(*later, later[-1])
                    of_size = max(read(alive))
                    most = max(most, of_size)
                    needs.append(_Need(size, of_size, max(read(taken)) + of_size * (size - 1), most))
            self._needs[number] = needs[::-1]
        return self._needs[number]


def gap_rests(chunks: Sequence[Chunk], number: int, sizes: Sequence[int], waste: int, lowest: int) -> GapRests | None:
    """Return the rests of the gap of a chunk, or None if it is short, rarely repeated, or a transient outlives it."""
    chunk = chunks[number]
    if len(chunk.gap) < _MIN_EVENTS or chunk.carried or 2 * len(chunk.counts) != len(chunk.transients):
        return None
    return GapRests(chunk.gap, sizes, waste, lowest) if chunks.count(chunk) >= _MIN_REPETITIONS else None


def play_gap(pool: FlatPool, sizes: Sequence[int], places: Places, item: Item) -> bool:
    """Play the events of an item, without the rest of its gap if that is certain to fit.

    Return False if it has none that may be. Then nothing is played.
    """
    rests = item.gap_rests()
    if rests is not None:
        rests.play(pool, item, sizes, places)
    return rests is not None


def _found(before: Sequence[Sequence[int]], last: int) -> list[_Rest]:
    """Return the rests to try.

    `before` has the allocations of the tensors that are alive at each request of the largest size. `last` is the index
    of the last such request.
    """
    # Where no request of the largest size is left, other requests may need some more frees.
    found = [_Rest(last + 1 + 2 * _APART, -1), _Rest(last + 1, -1)]
    for alive in range(max(map(len, before))):
        start = 1 + max(allocations[-alive - 1] for allocations in before if len(allocations) > alive)
        if start <= found[-1].start - _APART:
            found.append(_Rest(start, alive))
    return found[::-1]
