"""Long gaps that are repeated (see `transients`), of which only the beginning is played.

If all transients of a gap end in it, it leaves the blocks that were free before it, and those that it frees. The only
other trace are the segments that it adds. So the gap is played up to an event from which its rest is certain to fit
(see `certain`). Then everything that was allocated is freed at once.

Few of the tensors that are alive at a later request were allocated since such an event. It is sought where they become
fewer for the largest requests.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.adapter_updates import EVENTS, divided, play_divided, updates

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.allocator.adapter_updates import Divided
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
    """The condition under which requests of one size in a rest are certain to fit.

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
        "_divided",
        "_first",
        "_frees",
        "_gap",
        "_largest",
        "_needs",
        "_rests",
        "_shifted",
        "_sizes",
        "_updates",
        "_waste",
    )

    def __init__(self, gap: Sequence[int], sizes: Sequence[int], waste: int, lowest: int = 0) -> None:
        """Find the rests.

        `waste` is the most that is lost at the end of a tensor's block. `lowest` is the lowest row that differs from
        repetition to repetition.
        """
        largest = self._largest = max(map(sizes.__getitem__, filter((-1).__lt__, gap)))
        #: For each event, the index of the tensor's allocation, or -1 if that is before the gap; and by how much it
        #: changes the sizes of live tensors.
        births, changes = self._births, self._sizes = list[int](), list[int]()
        alive: dict[int, int] = {}
        #: The allocations of tensors that are alive at requests of the largest size, and the last such request.
        before: list[list[int]] = []
        last = 0
        for at, event in enumerate(gap):
            if event < 0:
                births.append(alive.pop(~event, -1))
                changes.append(-sizes[~event] - waste)
                continue
            size = sizes[event]
            if size == largest:
                before.append([*alive.values()])
                last = at
            alive[event] = at
            births.append(at)
            changes.append(size + waste)
        #: The number of frees of tensors that were allocated before the gap.
        self._frees = births.count(-1)
        self._gap = gap
        #: The number of events before the first one whose row differs from repetition to repetition.
        self._shifted = next((at for at, event in enumerate(gap) if not ~lowest < event < lowest), len(gap))
        self._waste = waste
        self._rests = _found(before, last)
        #: The needs of rests by their numbers, once they are read.
        self._needs: dict[int, list[_Need]] = {}
        #: Where updates of adapters begin (see `adapter_updates`).
        self._updates = [len(gap) + start for start in updates(gap, sizes)]
        #: The events between two indices, divided at updates, once they are read.
        self._divided: dict[tuple[int, int], Divided] = {}
        #: The number of the first rest to try, or None in the first repetition.
        self._first: int | None = None

    def play(self, pool: FlatPool, item: Item, sizes: Sequence[int], places: Places) -> None:
        """Play the events of a repetition, without the rest of the gap if that is certain to fit."""
        saved, at = pool.save(), 0
        regions: list[int] = []
        first = self._first_of(pool) if self._first is None else self._first
        for number in range(first, len(self._rests)):
            start = self._rests[number].start
            if start <= self._shifted:
                play_divided(pool, sizes, places, self._between(at, start, sizes))
            else:
                pool.play(item.played(skips=False)[at:start], sizes, places)
            at = start
            if not self._may_serve(pool, number):
                continue
            regions = regions or self._regions(pool, saved, item.played(skips=True)[: self._frees], places)
            if self._serves(pool, number, regions):
                # In the next repetition, an earlier rest may be certain to fit.
                self._first = max(0, number - 1)
                pool.restore(saved)
                pool.play(item.played(skips=True), sizes, places)
                return
        pool.play(item.played(skips=False)[at:], sizes, places)

    def _between(self, start: int, end: int, sizes: Sequence[int]) -> Divided:
        """Return the events between two indices."""
        key = start, end
        if key not in self._divided:
            starts = [at - start for at in self._updates if start <= at <= end - EVENTS]
            self._divided[key] = divided(self._gap[start:end], sizes, starts)
        return self._divided[key]

    def _first_of(self, pool: FlatPool) -> int:
        """Return the number of the first rest that may be certain to fit if no large block is used before it."""
        fitting = len(pool.free_keys) - bisect_left(pool.free_keys, self._largest << pool.shift)
        return next(number for number, rest in enumerate(self._rests) if rest.alive < fitting)

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
            self._needs[number] = self._read_needs(self._rests[number].start)
        return self._needs[number]

    def _read_needs(self, start: int) -> list[_Need]:
        #: By size, the most tensors that are alive at a request, and their largest sizes.
        found: dict[int, tuple[int, int]] = {}
        alive = taken = most = 0
        for size, birth in zip(self._sizes[start:], self._births[start:], strict=True):
            if birth < start:
                continue
            if size > 0:
                before, taken_before = found.get(size, (-1, -1))
                if alive > before or taken > taken_before:
                    found[size] = max(alive, before), max(taken, taken_before)
                alive += 1
            else:
                alive -= 1
            taken += size
        needs = list[_Need]()
        for size, (of_size, of_sizes) in sorted(found.items()):
            most, least = max(most, of_size), size - self._waste
            needs.append(_Need(least, of_size, of_sizes + of_size * (least - 1), most))
        return _decisive(needs[::-1])


def _decisive(needs: Sequence[_Need]) -> list[_Need]:
    """Return the needs without those that are met where that of a larger size is. The largest size comes first."""
    found = list[_Need]()
    for need in needs:
        if all(need.alive > larger.alive or need.lost > larger.lost for larger in found):
            found.append(need)
    return found


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
    for alive, allocations in enumerate(zip_longest(*map(reversed, before), fillvalue=-1)):
        start = 1 + max(allocations)
        if start <= found[-1].start - _APART:
            found.append(_Rest(start, alive))
    return found[::-1]
