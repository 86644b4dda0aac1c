"""The peak number of storages of each size that are alive at once during a step."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from calculator.engine.copies import Copies, CountChange, Counts
    from calculator.engine.recording import Recording

#: The most counts that copies keep, by which sizes are equal.
MAX_COUNTS = 64


def peak_counts(
    recording: Recording, last: Mapping[int, int] | None = None, extra: Iterable[CountChange] = ()
) -> dict[int, int]:
    """The peak number of storages of each size that are alive at once during a step.

    `last` are allocated at its end: their number by size. `extra` changes come on top of the recording's.
    """
    sizes = recording.storages.sizes
    counted = _counts(recording.copies, recording.storages.equal_sizes, tuple(extra))
    counts = {sizes[number]: count for number, count in counted.items() if sizes[number]}
    for size, count in (last or {}).items():
        most, left = counts.get(size, (0, 0))
        counts[size] = max(most, left + count), left + count
    return {size: most for size, (most, _) in counts.items()}


def _counts(copies: Copies, equal: tuple[int, ...], extra: tuple[CountChange, ...]) -> Counts:
    """The counts by the first number of equal sizes, cached for all runs in which the same kinds and sizes are."""
    key = (equal, extra)
    known = copies.counts.get(key)
    if known is None:
        if len(copies.counts) >= MAX_COUNTS:
            copies.counts.clear()
        more = [(position, equal[size], count) for position, size, count in extra]
        changes = sorted([*_copies(copies, equal), *more])
        known = copies.counts[key] = _counted(copies.kinds.size_events, changes, equal)
    return known


class _ChangesBySize(dict[int, "Callable[[int], None]"]):
    """The changes in number, listed by size: `changes[event](1 or -1)` appends to the list of its size."""

    __slots__ = ("equal", "lists")

    def __init__(self, equal: tuple[int, ...]) -> None:
        super().__init__()
        self.equal = equal
        self.lists: dict[int, list[int]] = {}

    def __missing__(self, event: int) -> Callable[[int], None]:
        size = max(event, ~event)
        changes = self.lists.setdefault(self.equal[size], [])
        self[size] = self[~size] = changes.append
        return changes.append

    def counts(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Each size with its peak number and the number left at the end."""
        for size, changes in self.lists.items():
            yield size, (max(accumulate(changes, initial=0)), sum(changes))


def _counted(events: Sequence[int], changes: list[CountChange], equal: tuple[int, ...]) -> Counts:
    """Count the storages that each event adds, and further changes at their positions."""
    by_size, done = _ChangesBySize(equal), 0
    for position, size, count in changes:
        for event in events[done:position]:
            by_size[event](1 if event >= 0 else -1)
        by_size[size](count)
        done = position
    for event in events[done:]:
        by_size[event](1 if event >= 0 else -1)
    return dict(by_size.counts())


def _copies(copies: Copies, equal: Sequence[int]) -> Iterator[CountChange]:
    """The changes of the copies: a gain counts from its window's start, a loss from its end."""
    for window, gained in zip(copies.windows, copies.sizes, strict=True):
        for size, count in merged(gained, equal).items():
            if count:
                yield window.start if count > 0 else window.end, size, window.copies * count
    size_of = copies.kinds.size_of
    for position, count, kind in copies.dropped:
        yield position, equal[size_of[kind]], -count


def merged(sizes: Mapping[int, int], equal: Sequence[int]) -> dict[int, int]:
    """Counts by size, with those of equal sizes together; `equal` has the first number of each size."""
    if len({*map(equal.__getitem__, sizes)}) == len(sizes):
        return {equal[size]: count for size, count in sizes.items()}
    counts: dict[int, int] = {}
    for size, count in sizes.items():
        counts[equal[size]] = counts.get(equal[size], 0) + count
    return counts
