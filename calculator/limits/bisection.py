"""Where a costly measure that grows with a whole number passes zero, by few trials."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: How many times farther than the last one a trial goes, while the zero has not been passed.
FARTHER = 2


def crossing(excess: Callable[[int], float], low: int, high: int, *, near: float = 0) -> tuple[int, int]:
    """Two neighbours, or values at most `near` × the lower one apart, the first without excess, the second with some.

    `excess(low)` must not be positive, `excess(high)` must be. Where the measure only grows there is one such pair;
    where it does not, this is one of several.

    A trial is where a line through the ends is zero. Where that moves the same end again, the next one goes past it, to
    bring the other end near too, and ever farther until it is passed.
    """
    below, above = excess(low), excess(high)
    side = reach = 0
    while high - low > (gap := max(1, int(near * low))):
        zero = low + int((high - low) * (-below / (above - below)))
        if side:
            left = zero - low if side > 0 else high - zero
            reach = reach * FARTHER or left + (gap + 1) // 2
            zero += side * reach
        middle = min(max(zero, low + 1), high - 1)
        found = excess(middle)
        if found > 0:
            high, above, moved = middle, found, -1
        else:
            low, below, moved = middle, found, 1
        side, reach = (moved, reach) if moved == side or not side else (0, 0)
    return low, high
