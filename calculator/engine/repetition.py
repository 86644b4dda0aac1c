"""Which layers of a stack are run, and how many more of its kind a run of them stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The longest repeating pattern of layers that is looked for (Gemma 3 has 6).
LONGEST_PERIOD = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Repetition:
    """The layers to run, by their numbers, of which those from `start` to `end` (places in the list) repeat.

    `repeated_positions`: the last period before a gap in the numbers. Its events are repeated `repeats` times, for the
    layers of the gap.
    """

    numbers: tuple[int, ...]
    start: int
    end: int
    copies: int
    repeated_positions: range = range(0)
    repeats: int = 0

    @property
    def boundaries(self) -> tuple[int, int, int]:
        """Where the period before the repeating one begins, where that begins, and where it ends."""
        return max(0, 2 * self.start - self.end), self.start, self.end

    def from_first_period(self) -> Repetition:
        """The same with the first period standing for all, where no other layer comes before the second."""
        period = self.end - self.start
        if self.start != period:
            return self
        numbers = (*self.numbers[:period], *self.numbers[self.end :])
        return Repetition(numbers=numbers, start=0, end=period, copies=self.copies + 1)

    def last_represented(self, place: int) -> int:
        """The number of the last layer that the one at a place stands for."""
        if place in self.repeated_positions:
            return self.numbers[place] + self.repeats * len(self.repeated_positions)
        return self.numbers[place] + (self.copies * (self.end - self.start) if self.start <= place < self.end else 0)


def repetition(kinds: Sequence[Any]) -> Repetition:
    """Find where a sequence of layers becomes periodic, and leave out all periods but two.

    The first period is run by itself, since what comes before it differs; the second stands for those that follow.
    """
    count = len(kinds)
    for lead in range(count):
        for period in range(1, min(LONGEST_PERIOD, (count - lead) // 2) + 1):
            if kinds[lead : count - period] == kinds[lead + period :]:
                return _shortened(count, lead + period, period)
    return Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)


def _shortened(count: int, start: int, period: int) -> Repetition:
    copies = (count - start) // period - 1
    end = start + period
    skipped = copies * period
    numbers = (*range(end), *range(end + skipped, count))
    return Repetition(numbers=numbers, start=start, end=end, copies=copies)
