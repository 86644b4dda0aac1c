"""The speed of plain Python on this machine, to compare timings of different or busy machines."""

from __future__ import annotations

from time import process_time

ITERATIONS = 100_000

#: Seconds per iteration on the machine that targets assume: a round figure for an idle current core.
REFERENCE = 25e-9


def loop_seconds() -> float:
    """CPU seconds per iteration of a short loop; the least of five runs."""
    return min(_timed() for _ in range(5))


def machine_speed() -> float:
    """The factor by which this machine is slower than the reference; at least 1."""
    return max(1.0, loop_seconds() / REFERENCE)


def _timed() -> float:
    total, start = 0, process_time()
    for number in range(ITERATIONS):
        total += number & 3
    return (process_time() - start) / ITERATIONS
