"""Repetitions of layers in a pass that adds segments. Repetitions that are placed like earlier ones are not played.

A repetition requests what the previous one requested, for rows of its own. It is placed like an earlier one if it finds
the same state at higher addresses: the free blocks from some address on and the tensors that it frees are higher by the
size that was added since. Then all later repetitions are placed in the same way, each period higher by the same amount.
In addition, there may be free blocks that earlier repetitions left and that are smaller than every request.

If the state is not the same, later repetitions can still choose free blocks as a period of earlier ones did (see
`choices`). That is found out for each period.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.recorded_choices import Recorder, Start

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence

    from calculator.allocator.choices import Choices
    from calculator.allocator.flat_pool import FlatPool, Placed, Places

#: The minimum number of repetitions for which some may be placed at once.
MIN_REPETITIONS = 6
#: A repetition is compared with an earlier one if as many repetitions before them were equal in size.
_ALIKE = 4
#: The maximum number of comparisons without success in a pass.
_ATTEMPTS = 12
#: The maximum number of periods in a pass whose choices are recorded.
_RECORDINGS = 2
#: How often a period has to fit into what follows, so that its choices are recorded. That costs as much as playing it.
_MIN_PERIODS = 3


class Repetitions(NamedTuple):
    """Repetitions of a window's requests from one pool.

    Attributes:
        times: The number of repetitions.
        step: By how much the rows of the next repetition are higher.
        shifted: The rows of the first repetition that are shifted by `step` in each later one.
        lowest: The lowest row that is shifted.
        reused: The rows that every repetition allocates.
        freed: The rows that the first repetition frees and the one before it allocated.
        ended: The rows that the first repetition both allocates and frees.
        events: The events of the first repetition.
        sizes: The sizes of all rows.
        least: The size of the smallest request.
    """

    times: int
    step: int
    shifted: Sequence[int]
    lowest: int
    reused: Sequence[int]
    freed: Sequence[int]
    ended: Sequence[int]
    events: Sequence[int]
    sizes: Sequence[int]
    least: int


def repetitions_of(
    events: Sequence[int], sizes: Sequence[int], times: int, step: int, lowest: int = 0
) -> Repetitions | None:
    """Return the repetitions of which the first has these events.

    Return None if one frees rows that neither it nor the previous one allocated, or if there are too few. Rows from
    `lowest` on are shifted by `step` in each repetition. Lower rows are used again.
    """
    allocated = dict[int, None]()
    freed: list[int] = []
    ended: list[int] = []
    for event in events:
        if event >= 0:
            allocated[event] = None
        else:
            (ended if ~event in allocated else freed).append(~event)
    if times < MIN_REPETITIONS or not allocated or any(row < lowest or row + step not in allocated for row in freed):
        return None
    shifted = [row for row in allocated if row >= lowest]
    reused = [row for row in allocated if row < lowest]
    least = min(sizes[row] for row in allocated)
    return Repetitions(times, step, shifted, lowest, reused, freed, ended, events, sizes, least)


class _Period(NamedTuple):
    """How a pool differs from its state some repetitions earlier.

    Attributes:
        repetitions: The number of repetitions.
        since: The number of segments at the earlier state.
        by: By how much addresses from `edge` on are higher.
        edge: The lowest address that is shifted.
        moved: The keys of free blocks that correspond to earlier free blocks.
        added: The keys of the other free blocks, which are smaller than every request.
    """

    repetitions: int
    since: int
    by: int
    edge: int
    moved: set[int]
    added: set[int]


def play_repetitions(pool: FlatPool, of: Repetitions, places: Places, play: Callable[[int, int], None]) -> None:
    """Place repetitions.

    `play(start, end)` places those from one number to another. It is not called for repetitions that are placed like
    earlier ones.
    """
    history, number = _History(pool, of, places), 0
    while number < of.times and history.attempts:
        history.begin_repetition(number)
        play(number, number + 1)
        number += 1
        repeated = history.end_repetition()
        number += repeated
        if repeated:
            break
    play(number, of.times)


class _History:
    """The states of a pool where each repetition started, and the places of rows that each allocated again."""

    __slots__ = (
        "_looks",
        "_mask",
        "_numbers",
        "_of",
        "_places",
        "_pool",
        "_recordings",
        "_reused",
        "_starts",
        "attempts",
    )

    def __init__(self, pool: FlatPool, of: Repetitions, places: Places) -> None:
        self._pool = pool
        self._of = of
        self._places = places
        self._mask = (1 << pool.shift) - 1
        self._starts: list[Start] = []
        #: For each start, by how much the pool had grown, and the sizes of free blocks.
        self._looks: list[Hashable] = []
        #: The starts at which these were the same, as at the starts before them.
        self._numbers: dict[Hashable, list[int]] = {}
        #: For each repetition, the addresses and the end addresses of the rows that every repetition allocates.
        self._reused: list[list[list[int]]] = []
        #: The numbers of comparisons and of recordings that may still be tried.
        self.attempts, self._recordings = _ATTEMPTS, _RECORDINGS
        self._note(0)

    def begin_repetition(self, number: int) -> None:
        """Remove the places of the rows that a repetition allocates and frees. Those that are not played get none."""
        addresses, by = self._places[0], number * self._of.step
        for row in self._of.ended:
            addresses[row + by if row >= self._of.lowest else row] = 0

    def end_repetition(self) -> int:
        """Store the state that a repetition left.

        If the following repetitions repeat a period, place them. Return their number.
        """
        self._reused.append([[*map(places.__getitem__, self._of.reused)] for places in self._places])
        numbers = self._note(self._starts[-1].next_address)
        last = numbers[-1]
        for first in numbers[-2:-4:-1]:
            if not self.attempts or 2 * last - first > self._of.times:
                break
            period = self._between(first, last)
            repeated = self._repeat(period) if period is not None else self._choose_alike(first, last)
            if repeated:
                return repeated
            self.attempts -= 1
        return 0

    def _note(self, before: int) -> list[int]:
        """Store a start. Return the numbers of earlier starts that are like it."""
        pool = self._pool
        self._starts.append(Start.from_pool(pool))
        # If the pool does not grow, the largest block may become smaller each time.
        largest = len(pool.free_keys) - (pool.next_address == before)
        fitting = pool.free_keys[bisect_left(pool.free_keys, self._of.least << pool.shift) : largest]
        sizes = frozenset([key >> pool.shift for key in fitting])
        self._looks.append((pool.next_address - before, sizes))
        numbers = self._numbers.setdefault(tuple(self._looks[-_ALIKE:]), [])
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
        """Return whether the tensors that a repetition frees are those of the earlier one, at shifted addresses."""
        by, edge, step = period.by, period.edge, self._of.step
        return all(
            places[row + (first + period.repetitions) * step] == address + (by if address >= edge else 0)
            for row in self._of.freed
            for places in self._places
            for address in (places[row + first * step],)
        )

    def _leaves(self, first: int, period: _Period) -> bool:
        """Return whether no repetition uses the added blocks: no request fits, and no neighbor is freed."""
        mask, shift = self._mask, self._pool.shift
        last = first + period.repetitions
        freed = [*self._placed_rows(self._of.freed, last)]
        blocks = [(key & mask, (key & mask) + (key >> shift)) for key in period.added]
        # Adjacent blocks, now or some periods later, would be merged.
        touch = any(
            not (address - end) % period.by or not (behind - start) % period.by
            for address, behind in freed
            for start, end in blocks
        )
        if touch or min(blocks)[0] < period.edge:
            return False
        return max(key >> shift for key in period.added) < self._of.least

    def _placed_rows(self, rows: Iterable[int], number: int) -> Iterator[Placed]:
        """Return the places of rows of a repetition."""
        addresses, end_addresses = self._places
        by = number * self._of.step
        return ((addresses[row + by], end_addresses[row + by]) for row in rows)

    def _choose_alike(self, first: int, last: int) -> int:
        """Place the following repetitions as long as they choose free blocks as an earlier period did.

        Return their number.
        """
        length, number = last - first, last
        if not self._recordings or last + _MIN_PERIODS * length > self._of.times:
            return 0
        self._recordings -= 1
        choices = self._choices(first, last)
        while (
            choices is not None
            and number + length <= self._of.times
            and choices.repeat(self._pool, self._places, (number - first) * self._of.step)
        ):
            number += length
        return number - last

    def _choices(self, first: int, last: int) -> Choices | None:
        """Return which free blocks repetitions chose."""
        of = self._of
        recorder = Recorder(self._pool, self._starts[first], of.least)
        rows = [*of.reused, *of.shifted, *of.freed]
        numbers = {row: number for number, row in enumerate(rows)}
        steps = [(numbers[event], of.sizes[event]) if event >= 0 else (numbers[~event], 0) for event in of.events]
        for number in range(first, last):
            places = [*zip(*self._reused[number], strict=True), *self._placed_rows(rows[len(of.reused) :], number)]
            freed = {numbers[row]: row + number * of.step for row in of.freed} if number == first else {}
            recorder.follow(steps, places, freed)
        ended = {*of.ended}
        kept = [row for row in of.shifted if row not in ended]
        following = {row + of.step for row in of.freed}
        alive = {
            row + number * of.step: place
            for number in range(first, last)
            for row, place in zip(kept, self._placed_rows(kept, number), strict=True)
            if number == last - 1 or row not in following
        }
        return recorder.choices(alive)

    def _repeat(self, period: _Period) -> int:
        """Place as many of the following repetitions as form whole periods. Return their number."""
        last, step, by = len(self._starts) - 1, self._of.step, period.by
        times = (self._of.times - last) // period.repetitions
        apart = period.repetitions * step
        for number in range(last - period.repetitions, last):
            for row in self._of.shifted:
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
