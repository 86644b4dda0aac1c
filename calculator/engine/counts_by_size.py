"""The peak number of storages of each size that are alive at once during a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from calculator.engine.copies import Copies, CountChange, Counts
    from calculator.engine.kinds import EqualSizes
    from calculator.engine.recording import Recording

#: The maximum number of results of `_counts` that a `Copies` caches.
MAX_COUNTS = 64


def peak_counts(
    recording: Recording, last: Mapping[int, int] | None = None, extra: Iterable[CountChange] = ()
) -> dict[int, int]:
    """Return the peak number of storages of each size that are alive at once during a step.

    `last` is allocated at the end of the step: the number of storages by size in bytes. `extra` changes are added to
    those of the recording.
    """
    sizes = recording.storages.sizes
    counted = _counts(recording.copies, recording.storages.equal_sizes, tuple(extra))
    peaks: dict[int, int] = {}
    at_end: dict[int, int] = {}
    for number, (most, left) in counted.items():
        if size := sizes[number]:
            peaks[size], at_end[size] = most, left
    for size, count in (last or {}).items():
        peaks[size] = max(peaks.get(size, 0), at_end.get(size, 0) + count)
    return peaks


def _counts(copies: Copies, equal: EqualSizes, extra: tuple[CountChange, ...]) -> Counts:
    """Return the counts for each distinct size, under the first number that has that size.

    Runs with the same kinds and the same equal sizes share a cached result.
    """
    key = (equal, extra)
    known = copies.counts.get(key)
    if known is None:
        if len(copies.counts) >= MAX_COUNTS:
            copies.counts.clear()
        known = copies.counts[key] = _counted(copies, equal, extra)
    return known


def _counted(copies: Copies, equal: EqualSizes, extra: tuple[CountChange, ...]) -> Counts:
    """Count the storages of each distinct size event by event. Other changes at a position come before its event."""
    events, others = copies.kinds.size_events, _other_changes(copies, equal, extra)
    groups = [*equal]
    alive = [0] * len(groups)
    most = [*alive]
    begin = 0
    for end in sorted({*others, len(events)}):
        count_events(events[begin:end], groups, alive, most)
        changes = others.get(end, ())
        for size, count in changes:
            alive[size] += count
        for size, _ in changes:
            if alive[size] > most[size]:  # noqa: PLR1730
                most[size] = alive[size]
        begin = end
    return {size: (most[size], alive[size]) for number, size in enumerate(groups) if size == number}


def count_events(events: Sequence[int], groups: Sequence[int], alive: list[int], most: list[int]) -> None:
    """Count the storages of each group that are alive, and the most at once, in place.

    Event `n` allocates a storage of `groups[n]`, and event `~n` frees it.
    """
    for event in events:
        if event < 0:
            alive[groups[~event]] -= 1
        else:
            group = groups[event]
            alive[group] = count = alive[group] + 1
            if count > most[group]:  # noqa: PLR1730  a call of `max` takes longer
                most[group] = count


def _other_changes(
    copies: Copies, equal: EqualSizes, extra: tuple[CountChange, ...]
) -> dict[int, list[tuple[int, int]]]:
    """Return the changes that events do not make, by position: the first number of a size, and the count.

    What copies gain is added at the start of their window. What they lose is removed at its end. Only the sum of what
    they gain of equal sizes counts.
    """
    changes: dict[int, list[tuple[int, int]]] = {}
    for (_, start, end, number), gained in zip(copies.windows, copies.sizes, strict=True):
        added, removed = changes.setdefault(start, []), changes.setdefault(end, [])
        for size, count in merge_equal_sizes(gained, equal).items():
            (added if count > 0 else removed).append((size, number * count))
    size_of = copies.kinds.size_of
    for position, size, count in extra:
        changes.setdefault(position, []).append((equal[size], count))
    for position, count, kind in copies.dropped:
        changes.setdefault(position, []).append((equal[size_of[kind]], -count))
    return changes


def merge_equal_sizes(counts: Mapping[int, int], equal: EqualSizes) -> Mapping[int, int]:
    """Add up counts of equal sizes, under the first number that has that size."""
    if isinstance(equal, range):
        return counts
    merged: dict[int, int] = {}
    for size, count in counts.items():
        merged[equal[size]] = merged.get(equal[size], 0) + count
    return merged
