"""How fast a machine runs plain Python, so that times of two machines, or of one that is busy, can be compared."""

from __future__ import annotations

from time import process_time

TURNS = 100_000

#: Seconds for a turn, for which times are promised: about what a quiet current core takes, a round figure.
PROMISED = 25e-9


def turn() -> float:
    """Seconds of CPU time that a turn of a short loop takes, the least of a few tries."""
    return min(_timed() for _ in range(5))


def pace() -> float:
    """How many times longer this machine takes than promised; 1 where it is as fast or faster."""
    return max(1.0, turn() / PROMISED)


def _timed() -> float:
    total, start = 0, process_time()
    for number in range(TURNS):
        total += number & 3
    return (process_time() - start) / TURNS
