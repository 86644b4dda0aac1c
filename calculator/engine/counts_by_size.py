"""The peak number of storages of each size that are alive at once during a step."""

from __future__ import annotations

from itertools import accumulate, chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from calculator.engine.copies import Copies, CountChange, Counts
    from calculator.engine.recording import Recording

#: The most counts that copies keep, by which sizes are equal.
MAX_COUNTS = 64

#: The most counts of single sizes that copies keep.
MAX_SIZES = 1024


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
        known = copies.counts[key] = dict(_counted(copies, equal, extra))
    return known


def _counted(
    copies: Copies, equal: tuple[int, ...], extra: tuple[CountChange, ...]
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Each size with its peak number and the number left at the end. Sizes of kinds that others equal have no events.

    Those that are equal to the same others in further runs are counted once.
    """
    together: dict[int, list[int]] = {}
    for number, first in enumerate(equal):
        together.setdefault(first, []).append(number)
    changes: dict[int, list[tuple[int, int]]] = {}
    for position, size, count in (*_copies(copies, equal), *extra):
        changes.setdefault(equal[size], []).append((position, count))
    known, events = copies.counts_of_sizes, _events_by_size(copies)
    if len(known) >= MAX_SIZES:
        known.clear()
    for first, numbers in together.items():
        key = (*numbers, *sorted(changes.get(first, ())))
        if key not in known:
            known[key] = _peak([events[number] for number in numbers if number in events], changes.get(first, []))
        yield first, known[key]


def _events_by_size(copies: Copies) -> dict[int, list[tuple[int, int]]]:
    """The events of each size in order: twice the position and 1 more, and the storages that it adds."""
    if copies.events_of_sizes is None:
        found = copies.events_of_sizes = {number: [] for number in copies.kinds.size_of}
        for position, event in enumerate(copies.kinds.size_events):
            if event >= 0:
                found[event].append((2 * position + 1, 1))
            else:
                found[~event].append((2 * position + 1, -1))
    return copies.events_of_sizes


def _peak(events: list[list[tuple[int, int]]], changes: list[tuple[int, int]]) -> tuple[int, int]:
    """The peak number of storages and the number left. A change comes before the event at its position."""
    if changes or len(events) != 1:
        ordered = sorted([*chain(*events), *[(2 * position, count) for position, count in changes]])
    else:
        ordered = events[0]
    counts = [count for _, count in ordered]
    return max(accumulate(counts, initial=0)), sum(counts)


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
