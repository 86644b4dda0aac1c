"""Repetitions of layers in a pass that adds segments: those that are placed as earlier ones are placed at once.

A repetition requests what the one before it requested, for rows of its own. So it is placed as an earlier one if it
finds the same, only further: with the free blocks from some address on, and the tensors that it frees, further by what
was added since. Then all that follow are placed so too, each period further by as much.

In addition, there may be blocks that repetitions left free and that are smaller than every request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from calculator.allocator.flat_pool import FlatPool, Placed, Places

#: Repetitions, from which on some may be placed at once.
MIN_REPETITIONS = 6
#: How many of the largest free blocks tell whether it is worth comparing all.
_LARGEST = 4
#: The most comparisons in a pass that lead to nothing.
_ATTEMPTS = 12


class Repetitions(NamedTuple):
    """Repetitions of a window's requests from one pool.

    Attributes:
        times: How many there are.
        step: What is added to the rows of one for those of the next.
        own: The rows of the first that each later one has `step` further.
        freed: The rows that the first frees and the one before it allocated.
        least: The size of the smallest request.
    """

    times: int
    step: int
    own: Sequence[int]
    freed: Sequence[int]
    least: int


def repetitions_of(
    events: Iterable[int], sizes: Sequence[int], times: int, step: int, lowest: int = 0
) -> Repetitions | None:
    """Return the repetitions of which the first has these events, if each frees only what it or the last allocated.

    Rows from `lowest` on are further by `step` in each; it uses others again.
    """
    allocated, freed = dict[int, None](), []
    for event in events:
        if event >= 0:
            allocated[event] = None
        elif ~event not in allocated:
            freed.append(~event)
    if times < MIN_REPETITIONS or not allocated or any(row < lowest or row + step not in allocated for row in freed):
        return None
    own = [row for row in allocated if row >= lowest]
    return Repetitions(times, step, own, freed, min(sizes[row] for row in allocated))


class _Start(NamedTuple):
    """A pool where a repetition starts: the keys of free blocks, the address of the next segment, and the segments."""

    free: list[int]
    next_address: int
    segments: int


class _Period(NamedTuple):
    """How a pool differs from what it was a number of repetitions earlier.

    Attributes:
        repetitions: The number of repetitions.
        since: The number of segments at their start.
        by: By how much addresses from `edge` on are further.
        edge: The lowest address of these.
        moved: The keys of free blocks that correspond to those before.
        added: The keys of the others, which are smaller than every request.
    """

    repetitions: int
    since: int
    by: int
    edge: int
    moved: set[int]
    added: set[int]


def play_repetitions(pool: FlatPool, of: Repetitions, places: Places, play: Callable[[int, int], None]) -> None:
    """Let `play` place the repetitions from one number to another, but for those that are placed as earlier ones."""
    history, number = _History(pool, of, places), 0
    while number < of.times and history.attempts:
        play(number, number + 1)
        number += 1
        period = history.end_repetition()
        if period is not None:
            number += history.repeat(period)
            break
    play(number, of.times)


class _History:
    """What a pool was where each repetition started, and the places of rows that each allocated again."""

    __slots__ = ("_mask", "_numbers", "_of", "_places", "_pool", "_starts", "attempts")

    def __init__(self, pool: FlatPool, of: Repetitions, places: Places) -> None:
        self._pool = pool
        self._of = of
        self._places = places
        self._mask = (1 << pool.shift) - 1
        self._starts: list[_Start] = []
        #: The starts at which the pool had grown as much, with largest free blocks of the same sizes.
        self._numbers: dict[Hashable, list[int]] = {}
        #: The comparisons that are left.
        self.attempts = _ATTEMPTS
        self._note(0)

    def end_repetition(self) -> _Period | None:
        """Note what a repetition left; the result is a period that the next ones will repeat, if one is found."""
        numbers = self._note(self._starts[-1].next_address)
        last = numbers[-1]
        for first in numbers[-2:-4:-1]:
            if not self.attempts or 2 * last - first > self._of.times:
                break
            period = self._between(first, last)
            if period is not None:
                return period
            self.attempts -= 1
        return None

    def _note(self, before: int) -> list[int]:
        """Note a start; the result is the number of those that are like it."""
        pool = self._pool
        self._starts.append(_Start(pool.free_keys.copy(), pool.next_address, len(pool.segments)))
        sizes = frozenset([key >> pool.shift for key in pool.free_keys[-_LARGEST:]])
        numbers = self._numbers.setdefault((pool.next_address - before, sizes), [])
        numbers.append(len(self._starts) - 1)
        return numbers

    def _between(self, first: int, last: int) -> _Period | None:
        before, now, mask = self._starts[first], self._starts[last], self._mask
        by, new = now.next_address - before.next_address, set(now.free)
        changed = [key for key in before.free if key not in new]
        if not by or any(key + by not in new for key in changed):
            return None
        edge = min([before.next_address, *(key & mask for key in changed)])
        moved = {key + by if key & mask >= edge else key for key in before.free}
        added = new - moved
        period = _Period(last - first, before.segments, by, edge, moved, added)
        if not moved <= new or not self._frees_the_same(first, period):
            return None
        return period if not added or self._leaves(first, period) else None

    def _frees_the_same(self, first: int, period: _Period) -> bool:
        """Whether the tensors that a repetition frees are where those of the earlier one were, only further."""
        by, edge, step = period.by, period.edge, self._of.step
        return all(
            places[row + (first + period.repetitions) * step] == address + (by if address >= edge else 0)
            for row in self._of.freed
            for places in self._places
            for address in (places[row + first * step],)
        )

    def _leaves(self, first: int, period: _Period) -> bool:
        """Whether the added blocks are used in no repetition: no request fits, and nothing next to them is freed."""
        mask, shift = self._mask, self._pool.shift
        last = first + period.repetitions
        freed = [*self._placed(self._of.freed, last)]
        blocks = [(key & mask, (key & mask) + (key >> shift)) for key in period.added]
        # Blocks next to each other, now or some periods on, would become one.
        touch = any(
            not (address - end) % period.by or not (behind - start) % period.by
            for address, behind in freed
            for start, end in blocks
        )
        if touch or min(blocks)[0] < period.edge:
            return False
        return max(key >> shift for key in period.added) < self._of.least

    def _placed(self, rows: Iterable[int], number: int) -> Iterator[Placed]:
        """Where rows of a repetition are."""
        addresses, behinds = self._places
        by = number * self._of.step
        return ((addresses[row + by], behinds[row + by]) for row in rows)

    def repeat(self, period: _Period) -> int:
        """Place as many of the following repetitions as are in whole periods; returns their number."""
        last, step, by = len(self._starts) - 1, self._of.step, period.by
        times = (self._of.times - last) // period.repetitions
        apart = period.repetitions * step
        for number in range(last - period.repetitions, last):
            for row in self._of.own:
                first = row + number * step
                following = slice(first + apart, first + times * apart + 1, apart)
                for places in self._places:
                    place = places[first]
                    moves = self._places[0][first] >= period.edge
                    places[following] = range(place + by, place + times * by + 1, by) if moves else [place] * times
        free = {key + times * by if key & self._mask >= period.edge else key for key in period.moved}
        free.update(key + n * by for key in period.added for n in range(times + 1))
        self._pool.grow_again(period.since, times, by, free)
        return times * period.repetitions
