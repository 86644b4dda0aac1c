"""When requests are certain to be served from free blocks, wherever live transients are placed.

Let `k` blocks with a total size of `W` lie in free blocks `f`. If no part of size `s` is left, each `f` of at least `s`
is in pieces smaller than `s`. It contains `n >= 1` blocks with a total size of `w`. Then `w + n (s - 1)` is at least
`f - s + 1`, and at least `s`. So a request of `s` is served if the sum of `max(f - s + 1, s)` over all `f >= s` is
above `W + k (s - 1)`.

In any case a request is served if one `f` is at least `W + (k + 1) s`.

If tensors that were allocated before are freed meanwhile, free blocks of one segment may merge. Then one of the `k`
blocks may lie in several `f`. So those of each segment count together. In a part of the segment, let some of them be
merged. Again, it contains `n >= 1` blocks, and `w + n (s - 1)` is at least the sum of their `f - s + 1`, and at least
`s`. So for each segment, the larger of the two counts. If there are more such segments than `k`, a request is served as
well.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: For each of several sizes of requests, the most that can be lost around blocks that are in use at the same time, and
#: the least that is lost in a free block which does not serve a request.
Needs = tuple[tuple[int, int, int], ...]


class Condition(Protocol):
    """A condition under which requests are certain to be served from free blocks.

    Attributes:
        sufficient_size: The size of one free block that is certain to serve them.
        most_lost: The most that can be lost for any size.
    """

    sufficient_size: int
    most_lost: int

    def needs(self) -> Iterable[tuple[int, int, int]]:
        """Return the bytes that can be lost for each size (see `Needs`). The largest size comes first."""

    def merges(self) -> bool:
        """Return whether tensors that were allocated before are freed meanwhile, so that free blocks may merge."""


def serves(free: Sequence[int], shift: int, condition: Condition, segments: Sequence[int]) -> bool:
    """Return whether requests are certain to be served from free blocks.

    `free` has the keys of the blocks, and `segments` those of the segments: sizes above the lowest `shift` bits, and
    addresses below. The addresses of segments are in order.
    """
    if free and free[-1] >> shift >= condition.sufficient_size:
        return True
    # The sum of the sizes, or a little more because of the addresses.
    if sum(free) >> shift <= condition.most_lost:
        return False
    for size, lost, least in condition.needs():
        lacking = lost
        for key in reversed(free):
            surplus = (key >> shift) - size + 1
            if surplus <= 0:
                return False
            lacking -= max(surplus, least)
            if lacking < 0:
                break
        else:
            return False
    return not condition.merges() or all(_serves_of_segments(free, shift, need, segments) for need in condition.needs())


def _serves_of_segments(free: Sequence[int], shift: int, need: tuple[int, int, int], segments: Sequence[int]) -> bool:
    """Return whether requests of one size are certain to be served if the free blocks of a segment may merge."""
    size, lacking, least = need
    address_of = ((1 << shift) - 1).__and__
    found = dict[int, int]()
    for key in reversed(free):
        surplus = (key >> shift) - size + 1
        if surplus <= 0:
            return False
        segment = bisect_right(segments, address_of(key), key=address_of)
        before = found.get(segment, 0)
        found[segment] = before + surplus
        lacking -= max(before + surplus, least) - (before and max(before, least))
        if lacking < 0:
            return True
    return False
