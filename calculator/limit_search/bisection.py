"""Find the integer at which an expensive function crosses zero, with few evaluations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: The factor by which the step past the interpolated zero grows until the zero is crossed.
STEP_FACTOR = 2


def crossing(excess: Callable[[int], float], low: int, high: int, *, near: float = 0) -> tuple[int, int]:
    """Return two consecutive values, the first without excess and the second with some.

    With `near`, the higher value may be up to `near` times the lower one above it. `excess(low)` must not be positive
    and `excess(high)` must be. If `excess` is monotonic there is one such pair. Otherwise this is one of several.

    The next value is the zero of the line through both ends. If it moves the same end again, the next value goes past
    the zero to move the other end too, and further each time until it does.
    """
    below, above = excess(low), excess(high)
    side = step = 0
    while high - low > (gap := max(1, int(near * low))):
        zero = low + int((high - low) * (-below / (above - below)))
        if side:
            distance = zero - low if side > 0 else high - zero
            step = step * STEP_FACTOR or distance + (gap + 1) // 2
            zero += side * step
        middle = min(max(zero, low + 1), high - 1)
        value = excess(middle)
        if value > 0:
            high, above, moved = middle, value, -1
        else:
            low, below, moved = middle, value, 1
        side, step = (moved, step) if moved == side or not side else (0, 0)
    return low, high
