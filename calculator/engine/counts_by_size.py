"""How many storages of each size are alive at once during a step, at most."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.resident.per_parameter import sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from calculator.engine.recording import Recording
    from calculator.resident.per_parameter import ResidentTensors

#: From a position on, storages of a size: how many more.
Told = tuple[int, int, int]

#: By size: the most that are alive at once, and how many are left at the end.
Counts = dict[int, tuple[int, int]]


def peak_counts(
    recording: Recording, last: Sequence[ResidentTensors] = (), beside: Iterable[Told] = ()
) -> dict[int, int]:
    """Of each size, the most that are alive at once during a step.

    `last` is made at its end; `beside` comes on top of what the recording tells.
    """
    counts = _counts(recording, sorted([*_of_copies(recording), *beside]))
    for size, count in sizes(last).items():
        most, left = counts.get(size, (0, 0))
        counts[size] = max(most, left + count), left + count
    return {size: most for size, (most, _) in counts.items()}


def _counts(recording: Recording, told: list[Told]) -> Counts:
    """Counted once for recordings that go one way, where the same of their sizes are equal."""
    lifetimes = recording.lifetimes
    if not lifetimes.sizes:
        return _counted(recording.changes, told)
    numbers: dict[int, int] = {}
    alike = tuple([numbers.setdefault(size, number) for number, size in enumerate(lifetimes.sizes)])
    key = (alike, tuple([(position, numbers[size], count) for position, size, count in told]))
    if key not in lifetimes.counted:
        counts = _counted(recording.changes, told)
        lifetimes.counted[key] = {numbers[size]: count for size, count in counts.items()}
    return {lifetimes.sizes[number]: count for number, count in lifetimes.counted[key].items()}


class _Turns(dict[int, "Callable[[int], None]"]):
    """What is added and taken away of storages of each size, in bytes: `turns[change](change)` notes a change."""

    __slots__ = ("noted",)

    def __init__(self) -> None:
        super().__init__()
        self.noted: dict[int, list[int]] = {}

    def __missing__(self, change: int) -> Callable[[int], None]:
        turns = self.noted[abs(change)] = []
        self[change] = self[-change] = turns.append
        return turns.append

    def counts(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Of each size the most that are there at once, and how many in the end."""
        for size, turns in self.noted.items():
            if size:
                yield size, (max(accumulate(turns, initial=0)) // size, sum(turns) // size)


def _counted(changes: list[int], told: list[Told]) -> Counts:
    turns, done = _Turns(), 0
    for position, size, count in told:
        for change in changes[done:position]:
            turns[change](change)
        turns[size](size * count)
        done = position
    for change in changes[done:]:
        turns[change](change)
    return dict(turns.counts())


def _of_copies(recording: Recording) -> Iterator[Told]:
    """What the layers that a window stands for add. Gains count from its start on."""
    for window, gained in zip(recording.windows, recording.sizes, strict=True):
        for size, count in gained.items():
            if count:
                yield window.start if count > 0 else window.end, size, window.copies * count
    for position, copies, born in recording.dropped:
        yield position, born[4], -copies
