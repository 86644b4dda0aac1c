"""Values of a setting at which required memory is not monotonic.

Required memory grows with a setting, except where fragmentation shrinks. Tensors of equal size share segments, and
blocks if they are never alive together. Kernels copy unaligned tensors. So the likely values are those at which two
tensors have the same size, and multiples of what kernels align to.
"""

from __future__ import annotations

from itertools import combinations
from math import floor, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.limit_search.probes import Probes

#: The multiples that kernels align to, in elements or tokens.
ALIGNMENTS = (4, 8, 16, 32, 64, 128, 256, 512)

#: Up to this many values are all candidates. Of more values, this many at equal distances are.
ALL = 96
SPREAD = 24

#: How many values after one that does not fit are tried, because fragmentation may shrink a little.
NEXT = 12

#: How many of the likeliest values come before those next to the edge.
LIKELIEST = 12

#: The largest difference in bytes of two sizes that count as equal, because each is rounded up to 512.
ROUNDED = 1024


def higher(probes: Probes, best: int, end: int) -> int:
    """Return the largest value below `end` that fits, among those at which less may be required.

    Otherwise return `best`.
    """
    candidates = likely_values(probes, best + 1, end)
    while True:
        values = [*candidates[:LIKELIEST], *following(probes, best + 1, end), *candidates[LIKELIEST:]]
        fitting = probes.largest(value for value in values if value > best)
        if fitting is None:
            return best
        best = probes.largest_before_failure(fitting, end)


def likely_values(probes: Probes, low: int, high: int) -> list[int]:
    """Return values strictly between two at which less may be required than at `low`, the likeliest first.

    If they are few, return all of them.
    """
    between = range(low + 1, high)
    if len(between) <= min(ALL, probes.budget):
        return [*between]
    meeting = {value for aligned in (1, ALIGNMENTS[4]) for value in equal_sizes(probes, low, high, aligned)}
    step = 1 << (len(between) // SPREAD).bit_length()
    powers = [1 << power for power in range(high.bit_length())]
    values = dict.fromkeys(
        (probes.requested, *sorted(meeting, reverse=True), *reversed(powers), *range(step, high, step))
    )
    return [value for value in values if value in between]


def following(probes: Probes, low: int, high: int) -> list[int]:
    """Return values soon after `low` and below `high`: the next aligned values, and the next values."""
    aligned = {
        -(-(low + 1 + offset) // alignment) * alignment - offset
        for alignment in ALIGNMENTS
        for offset in (0, probes.offset)
    }
    values = dict.fromkeys((*sorted(aligned), *range(low + 1, low + 1 + NEXT)))
    return [value for value in values if low < value < high]


def equal_sizes(probes: Probes, low: int, high: int, aligned: int) -> Iterator[int]:
    """Yield values at which tensors have equal sizes, interpolated from three odd multiples of `aligned`."""
    first, last = -(-(low + 1) // aligned), (high - 1) // aligned
    if last - first < 6:
        return
    odd = [aligned * factor for factor in (first | 1, (first + last) // 2 | 1, (last - 1) | 1)]
    for groups in zip(*(probes.sizes(value) for value in odd), strict=True):
        if len({len(sizes) for sizes in groups}) == 1:
            for one, other in combinations(sorted(set(zip(*groups, strict=True))), 2):
                equal = _zeros_between(odd, [a - b for a, b in zip(one, other, strict=True)])
                yield from (value for value in equal if low < value < high)


def _zeros_between(values: Sequence[int], differences: Sequence[int]) -> Iterator[int]:
    """Yield integers near the zeros of the parabola through the differences at three values."""
    if min(differences) > 0 or max(differences) < 0:
        return
    (start, middle, end), (at_start, at_middle, at_end) = values, differences
    slope = (at_middle - at_start) / (middle - start)
    bend = ((at_end - at_middle) / (end - middle) - slope) / (end - start)

    def offset(value: int) -> float:
        return at_start + (value - start) * (slope + (value - middle) * bend)

    for zero in _zeros(bend, slope - bend * (start + middle), at_start - start * (slope - bend * middle)):
        yield from (value for value in (floor(zero), floor(zero) + 1) if abs(offset(value)) < ROUNDED)


def _zeros(square: float, linear: float, constant: float) -> tuple[float, ...]:
    """Return the zeros of a parabola, which may be a line, without loss of digits to cancellation."""
    under = linear * linear - 4 * square * constant
    if under < 0:
        return ()
    larger = -(linear + (sqrt(under) if linear >= 0 else -sqrt(under))) / 2
    return (*((larger / square,) if square else ()), *((constant / larger,) if larger else ()))
