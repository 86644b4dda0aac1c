"""When requests are certain to be served from free blocks, wherever live transients are placed.

Let `k` blocks with a total size of `W` lie in free blocks `f`. If no part of size `s` is left, each `f` of at least `s`
is in pieces smaller than `s`. It contains `n >= 1` blocks with a total size of `w`. Then `w + n (s - 1)` is at least
`f - s + 1`, and at least `s`. So a request of `s` is served if the sum of `max(f - s + 1, s)` over all `f >= s` is
above `W + k (s - 1)`.

In any case a request is served if one `f` is at least `W + (k + 1) s`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def needs(self) -> Needs:
        """Return what can be lost for each size."""


def serves(free: Sequence[int], shift: int, condition: Condition) -> bool:
    """Return whether requests are certain to be served from free blocks.

    `free` has the keys of the blocks, with their sizes above the lowest `shift` bits.
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
    return True
