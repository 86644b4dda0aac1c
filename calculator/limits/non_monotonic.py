"""Values at which less may be required than at smaller ones.

What is required grows with a setting but where the allocator's slack shrinks. Tensors that come to be of one size lie
in the same segments, and those that are never alive at once in the same blocks. Kernels copy what is not aligned. So
the likely values are those at which two sizes meet, and the multiples of what kernels align to.
"""

from __future__ import annotations

from itertools import combinations
from math import floor, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.limits.probes import Probes

#: What kernels align to, in elements or tokens.
ALIGNMENTS = (4, 8, 16, 32, 64, 128, 256, 512)

#: So many values are all tried; of more, so many of equal distance.
ALL = 96
SPREAD = 24

#: Values of a spread.
PROBES = 6

#: Values next to one that is not enough that are tried as well: the slack may shrink by little.
NEXT = 12

#: Sizes meet where they are no farther apart than this, since each is rounded up to 512 bytes.
ROUNDED = 1024


def likely(probes: Probes, low: int, high: int) -> list[int]:
    """Values between two, both left out, at which less may be required than at `low`, the likeliest first.

    All of them where they are few.
    """
    between = range(low + 1, high)
    if len(between) <= min(ALL, probes.most):
        return [*between]
    sizes_meet = {value for aligned in (1, ALIGNMENTS[4]) for value in meetings(probes, low, high, aligned)}
    step = 1 << (len(between) // SPREAD).bit_length()
    powers = [1 << power for power in range(high.bit_length())]
    values = dict.fromkeys(
        (probes.asked, *sorted(sizes_meet, reverse=True), *reversed(powers), *range(step, high, step))
    )
    return [value for value in values if value in between]


def following(probes: Probes, low: int, high: int) -> list[int]:
    """Values soon after `low` and below `high`: the next aligned ones, and the next."""
    aligned = {-(-(low + 1 + beside) // each) * each - beside for each in ALIGNMENTS for beside in (0, probes.beside)}
    values = dict.fromkeys((*sorted(aligned), *range(low + 1, low + 1 + NEXT)))
    return [value for value in values if low < value < high]


def spread(low: int, high: int) -> set[int]:
    """Values between two, both left out, at equal distances."""
    values = {low + (high - low) * step // (PROBES + 1) for step in range(1, PROBES + 1)}
    return {value for value in values if low < value < high}


def meetings(probes: Probes, low: int, high: int, aligned: int) -> Iterator[int]:
    """Values between two at which tensors come to be of one size, as three multiples of what is `aligned` tell."""
    first, last = -(-(low + 1) // aligned), (high - 1) // aligned
    if last - first < 6:
        return
    odd = [aligned * each for each in (first | 1, (first + last) // 2 | 1, (last - 1) | 1)]
    told = [probes.sizes(value) for value in odd]
    for alike in zip(*told, strict=True):
        if len({len(sizes) for sizes in alike}) == 1:
            for one, other in combinations(sorted(set(zip(*alike, strict=True))), 2):
                met = _meeting(odd, [a - b for a, b in zip(one, other, strict=True)])
                yield from (value for value in met if low < value < high)


def _meeting(values: Sequence[int], apart: Sequence[int]) -> Iterator[int]:
    """Whole numbers at which what is so much apart at three values is not: by the parabola through them."""
    if min(apart) > 0 or max(apart) < 0:
        return
    (start, middle, end), (at_start, at_middle, at_end) = values, apart
    slope = (at_middle - at_start) / (middle - start)
    bend = ((at_end - at_middle) / (end - middle) - slope) / (end - start)

    def between(value: int) -> float:
        return at_start + (value - start) * (slope + (value - middle) * bend)

    for zero in _zeros(bend, slope - bend * (start + middle), at_start - start * (slope - bend * middle)):
        yield from (value for value in (floor(zero), floor(zero) + 1) if abs(between(value)) < ROUNDED)


def _zeros(square: float, linear: float, constant: float) -> tuple[float, ...]:
    """Where a parabola, which may be a line, is zero, written so that no digits are lost."""
    under = linear * linear - 4 * square * constant
    if under < 0:
        return ()
    larger = -(linear + (sqrt(under) if linear >= 0 else -sqrt(under))) / 2
    return (*((larger / square,) if square else ()), *((constant / larger,) if larger else ()))
