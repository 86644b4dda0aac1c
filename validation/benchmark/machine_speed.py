"""The speed of plain Python on this machine, to compare timings of different or busy machines."""

from __future__ import annotations

from time import process_time

ITERATIONS = 100_000


def loop_seconds() -> float:
    """CPU seconds per iteration of a short loop; the least of five runs."""
    return min(_timed() for _ in range(5))


def _timed() -> float:
    total, start = 0, process_time()
    for number in range(ITERATIONS):
        total += number & 3
    return (process_time() - start) / ITERATIONS
