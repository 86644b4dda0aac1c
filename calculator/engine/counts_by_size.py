"""The peak number of storages of each size that are alive at once during a step."""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING

from calculator.engine.copies import Changes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from calculator.engine.copies import Copies, CountChange, Counts
    from calculator.engine.recording import Recording

#: The maximum number of results of `_counts` that a `Copies` caches.
MAX_COUNTS = 64

#: The maximum number of results of `_peak` that a `Copies` caches.
MAX_SIZES = 1024


def peak_counts(
    recording: Recording, last: Mapping[int, int] | None = None, extra: Iterable[CountChange] = ()
) -> dict[int, int]:
    """Return the peak number of storages of each size that are alive at once during a step.

    `last` is allocated at the end of the step: the number of storages by size in bytes. `extra` changes are added to
    those of the recording.
    """
    sizes = recording.storages.sizes
    counted = _counts(recording.copies, recording.storages.equal_sizes, tuple(extra))
    counts = {sizes[number]: count for number, count in counted.items() if sizes[number]}
    for size, count in (last or {}).items():
        most, left = counts.get(size, (0, 0))
        counts[size] = max(most, left + count), left + count
    return {size: most for size, (most, _) in counts.items()}


@lru_cache(maxsize=MAX_COUNTS)
def groups_of(equal: tuple[int, ...]) -> dict[int, tuple[int, ...]]:
    """Return the numbers of equal sizes, by their first number."""
    groups: dict[int, list[int]] = {}
    for number, first in enumerate(equal):
        groups.setdefault(first, []).append(number)
    return {first: tuple(numbers) for first, numbers in groups.items()}


def _counts(copies: Copies, equal: tuple[int, ...], extra: tuple[CountChange, ...]) -> Counts:
    """Return the counts for each distinct size, under the first number that has that size.

    Runs with the same kinds and the same equal sizes share a cached result.
    """
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
    """Yield each distinct size with its peak number and the number that is left at the end.

    A group of equal sizes that occurs again in another run is counted once.
    """
    more: dict[int, list[tuple[int, int]]] = {}
    for position, size, count in extra:
        more.setdefault(equal[size], []).append((2 * position, count))
    known = copies.counts_of_sizes
    if len(known) >= MAX_SIZES:
        known.clear()
    for first, numbers in groups_of(equal).items():
        own = more.get(first)
        key = (*numbers, *own) if own else numbers
        if key not in known:
            known[key] = _peak(copies, numbers, own or ())
        yield first, known[key]


def _peak(copies: Copies, numbers: Sequence[int], extra: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return the peak number of live storages of some equal sizes, and the number that is left."""
    changes = changes_of(copies)
    own = [changes[number] for number in numbers if number in changes]
    corrections = _together(copies, numbers) if len(numbers) > 1 else ()
    if len(own) == 1:
        counts = own[0].with_others([*extra, *corrections])
    else:
        ordered = sorted([*chain.from_iterable([each.listed for each in own]), *extra, *corrections])
        counts = [count for _, count in ordered]
    return max(accumulate(counts, initial=0)), sum(counts)


def _together(copies: Copies, numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield corrections for copies that gain storages of one size and lose storages of an equal size.

    Only the sum of what they gain of equal sizes counts. So the smaller part moves to the end of the window where the
    sum changes.
    """
    for window, gained in zip(copies.windows, copies.sizes, strict=True):
        counts = [gained[number] for number in numbers if gained.get(number)]
        total = sum(counts)
        moved = window.copies * sum([count for count in counts if (count > 0) != (total > 0)])
        if moved:
            yield 2 * (window.start if total <= 0 else window.end), -moved
            yield 2 * (window.start if total > 0 else window.end), moved


def changes_of_events(copies: Copies, numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return the events of some sizes in order: the position, and the number of storages that the event adds."""
    changes = changes_of(copies)
    own = [changes[number] for number in numbers if number in changes]
    return sorted(chain.from_iterable([zip(each.positions, each.counts, strict=True) for each in own]))


def changes_of(copies: Copies) -> dict[int, Changes]:
    """Return the changes in the number of storages of each size.

    What copies gain is added at the start of their window. What they lose is removed at its end. A size that no kind
    has gets no entry.
    """
    if copies.changes_of_sizes is None:
        found = copies.changes_of_sizes = _of_events(copies)
        for window, gained in zip(copies.windows, copies.sizes, strict=True):
            for size, count in gained.items():
                if count:
                    at = window.start if count > 0 else window.end
                    found[size].of_copies.append((2 * at, window.copies * count))
        for position, count, kind in copies.dropped:
            found[copies.kinds.size_of[kind]].of_copies.append((2 * position, -count))
    return copies.changes_of_sizes


def _of_events(copies: Copies) -> dict[int, Changes]:
    """Return the changes of the events, without those of the copies."""
    events, size_of = copies.kinds.size_events, copies.kinds.size_of
    count = max(size_of, default=-1) + 1
    # An event `n` is at index n, and `~n` = -n - 1 counts from the end.
    sizes = map([*range(count), *range(count - 1, -1, -1)].__getitem__, events)
    added = [*map([*repeat(1, count), *repeat(-1, count)].__getitem__, events)]
    positions: dict[int, list[int]] = {number: [] for number in {*size_of}}
    for position, size in enumerate(sizes):
        positions[size].append(position)
    return {size: Changes(own, [*map(added.__getitem__, own)]) for size, own in positions.items()}
