"""The peak number of storages of each size that are alive at once during a step."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.resident.per_parameter import sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from calculator.engine.recording import Recording
    from calculator.resident.per_parameter import ResidentTensors

#: From a position on, how many more storages of a size are alive: (position, size, count).
CountChange = tuple[int, int, int]

#: By size: the peak number alive at once, and the number left at the end.
Counts = dict[int, tuple[int, int]]


def peak_counts(
    recording: Recording, last: Sequence[ResidentTensors] = (), extra: Iterable[CountChange] = ()
) -> dict[int, int]:
    """The peak number of storages of each size that are alive at once during a step.

    `last` are allocated at its end; `extra` changes come on top of the recording's.
    """
    counts = _counts(recording, sorted([*_copies(recording), *extra]))
    for size, count in sizes(last).items():
        most, left = counts.get(size, (0, 0))
        counts[size] = max(most, left + count), left + count
    return {size: most for size, (most, _) in counts.items()}


def _counts(recording: Recording, changes: list[CountChange]) -> Counts:
    """The counts of a recording, cached for all with the same events and the same sizes equal to each other."""
    lifetimes = recording.lifetimes
    if not lifetimes.sizes:
        return _counted(recording.changes, changes)
    numbers: dict[int, int] = {}
    equal = tuple([numbers.setdefault(size, number) for number, size in enumerate(lifetimes.sizes)])
    key = (equal, tuple([(position, numbers[size], count) for position, size, count in changes]))
    if key not in lifetimes.count_cache:
        counts = _counted(recording.changes, changes)
        lifetimes.count_cache[key] = {numbers[size]: count for size, count in counts.items()}
    return {lifetimes.sizes[number]: count for number, count in lifetimes.count_cache[key].items()}


class _ChangesBySize(dict[int, "Callable[[int], None]"]):
    """The changes in bytes, listed by size: `changes[change](change)` appends to the list of its size."""

    __slots__ = ("lists",)

    def __init__(self) -> None:
        super().__init__()
        self.lists: dict[int, list[int]] = {}

    def __missing__(self, change: int) -> Callable[[int], None]:
        changes = self.lists[abs(change)] = []
        self[change] = self[-change] = changes.append
        return changes.append

    def counts(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Each size with its peak number and the number left at the end."""
        for size, changes in self.lists.items():
            if size:
                yield size, (max(accumulate(changes, initial=0)) // size, sum(changes) // size)


def _counted(events: list[int], changes: list[CountChange]) -> Counts:
    """Count the bytes that each event adds, and further changes at their positions."""
    by_size, done = _ChangesBySize(), 0
    for position, size, count in changes:
        for change in events[done:position]:
            by_size[change](change)
        by_size[size](size * count)
        done = position
    for change in events[done:]:
        by_size[change](change)
    return dict(by_size.counts())


def _copies(recording: Recording) -> Iterator[CountChange]:
    """The changes of the copies: a gain counts from its window's start, a loss from its end."""
    for window, gained in zip(recording.windows, recording.sizes, strict=True):
        for size, count in gained.items():
            if count:
                yield window.start if count > 0 else window.end, size, window.copies * count
    for position, copies, allocation in recording.dropped:
        yield position, allocation[4], -copies
