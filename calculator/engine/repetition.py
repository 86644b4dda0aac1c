"""The repeating pattern of a model's layers: the layers to interpret, and the number of layers that each represents."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

#: The longest pattern of layers to look for (Gemma 3 repeats 6).
LONGEST_PERIOD = 12

#: Marks the name of a tensor that stands for layers that are not interpreted.
NOT_RUN = "of layers not run"


class Repetition(NamedTuple):
    """The layers to interpret, by number.

    The layers at positions `start` to `end` of `numbers` are the period. In the model, `copies` more periods with the
    same events follow it. `repeated_positions` is the last period before a gap in the numbers. Its events are repeated
    `repeats` times, for the layers of the gap.
    """

    numbers: tuple[int, ...]
    start: int
    end: int
    copies: int
    repeated_positions: range = range(0)
    repeats: int = 0

    @property
    def boundaries(self) -> tuple[int, int, int]:
        """The start of the period before the repeated one, the start of the repeated one, and its end."""
        return max(0, 2 * self.start - self.end), self.start, self.end

    @property
    def begins_with_period(self) -> bool:
        """Whether no other layers come before the first period."""
        return self.start in (0, self.end - self.start)

    def from_first_period(self) -> Repetition:
        """Return the repetition whose first period represents all others, unless other layers come before it."""
        period = self.end - self.start
        if self.start != period:
            return self
        numbers = (*self.numbers[:period], *self.numbers[self.end :])
        return Repetition(numbers=numbers, start=0, end=period, copies=self.copies + 1)

    def last_represented(self, position: int) -> int:
        """Return the number of the last layer that the layer at a position represents."""
        number = self.numbers[position]
        if position in self.repeated_positions:
            return number + self.repeats * len(self.repeated_positions)
        return number + (self.copies * (self.end - self.start) if self.start <= position < self.end else 0)


@lru_cache(maxsize=1024)
def repetition(kinds: Sequence[Hashable]) -> Repetition:
    """Find where a sequence of layers becomes periodic, and keep two of its periods.

    The first period is interpreted by itself because other layers precede it; the second represents those that follow.
    The result is cached, because models have few patterns.
    """
    count = len(kinds)
    for lead in range(count):
        for period in range(1, min(LONGEST_PERIOD, (count - lead) // 2) + 1):
            if kinds[lead : count - period] == kinds[lead + period :]:
                return _shortened(count, lead + period, period)
    return every_layer(count)


def every_layer(count: int) -> Repetition:
    """Interpret every layer."""
    return Repetition(numbers=tuple(range(count)), start=count, end=count, copies=0)


def repetition_before_last(kinds: Sequence[Hashable]) -> Repetition:
    """Find the repetition, with the last layer interpreted by itself.

    Every repeated layer is then between two like it.
    """
    inner = repetition(kinds[:-1])
    count = len(kinds)
    if not inner.copies:
        return every_layer(count)
    return inner._replace(numbers=(*inner.numbers, count - 1))


def _shortened(count: int, start: int, period: int) -> Repetition:
    copies = (count - start) // period - 1
    end = start + period
    skipped = copies * period
    numbers = (*range(end), *range(end + skipped, count))
    return Repetition(numbers=numbers, start=start, end=end, copies=copies)
