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
    """Each size with its peak number and the number left at the end.

    Those that are equal to the same others in further runs are counted once.
    """
    together: dict[int, list[int]] = {}
    for number, first in enumerate(equal):
        together.setdefault(first, []).append(number)
    more: dict[int, list[tuple[int, int]]] = {}
    for position, size, count in extra:
        more.setdefault(equal[size], []).append((2 * position, count))
    known = copies.counts_of_sizes
    if len(known) >= MAX_SIZES:
        known.clear()
    for first, numbers in together.items():
        own = more.get(first)
        key = (*numbers, *own) if own else (*numbers,)
        if key not in known:
            known[key] = _peak(copies, numbers, own or ())
        yield first, known[key]


def _peak(copies: Copies, numbers: Sequence[int], extra: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The peak number of storages of some sizes, which are equal, and the number left."""
    changes = _changes(copies)
    if len(numbers) == 1 and not extra:
        ordered = changes[numbers[0]]
    else:
        own = chain.from_iterable([changes[number] for number in numbers if number in changes])
        ordered = sorted([*own, *extra, *_together(copies, numbers)])
    counts = [count for _, count in ordered]
    return max(accumulate(counts, initial=0)), sum(counts)


def _together(copies: Copies, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Changes that move what copies gain of one size to where they lose it of another, or the other way around.

    What counts is what they gain of equal sizes together.
    """
    for window, gained in zip(copies.windows, copies.sizes, strict=True):
        counts = [gained[number] for number in numbers if gained.get(number)]
        total = sum(counts)
        moved = window.copies * sum([count for count in counts if (count > 0) != (total > 0)])
        if moved:
            yield 2 * (window.start if total <= 0 else window.end), -moved
            yield 2 * (window.start if total > 0 else window.end), moved


def changes_of_events(copies: Copies, numbers: Iterable[int]) -> list[tuple[int, int]]:
    """The events of some sizes in order: the position, and the number of storages that it adds."""
    changes = _changes(copies)
    own = sorted([each for number in numbers for each in changes.get(number, ()) if each[0] % 2])
    return [(at // 2, change) for at, change in own]


def _changes(copies: Copies) -> dict[int, list[tuple[int, int]]]:
    """The changes in the number of storages of each size, in order: twice the position, and the number that it adds.

    An event's is 1 more than twice its position: other changes at a position come before it. What copies gain counts
    from their window's start, what they lose from its end. Sizes of kinds that others equal have none.
    """
    if copies.changes_of_sizes is None:
        found = copies.changes_of_sizes = {number: [] for number in copies.kinds.size_of}
        for position, event in enumerate(copies.kinds.size_events):
            if event >= 0:
                found[event].append((2 * position + 1, 1))
            else:
                found[~event].append((2 * position + 1, -1))
        for window, gained in zip(copies.windows, copies.sizes, strict=True):
            for size, count in gained.items():
                if count:
                    at = window.start if count > 0 else window.end
                    found[size].append((2 * at, window.copies * count))
        for position, count, kind in copies.dropped:
            found[copies.kinds.size_of[kind]].append((2 * position, -count))
        for each in found.values():
            each.sort()
    return copies.changes_of_sizes
