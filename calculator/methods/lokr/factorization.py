"""The division of a side of a matrix into two factors, as LoKr does it (peft.tuners.lokr.layer.factorization)."""

from __future__ import annotations


def factorization(size: int, factor: int) -> tuple[int, int]:
    """Return two factors of a size, the smaller one first.

    It is the given factor if that divides the size, else the largest divisor up to it. -1 stands for the pair with the
    smallest sum.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = size if factor == -1 else factor
    smaller, larger = 1, size
    while smaller < larger:
        following = next(each for each in range(smaller + 1, size + 1) if size % each == 0)
        if following + size // following > smaller + larger or following > most:
            break
        smaller, larger = following, size // following
    return min(smaller, larger), max(smaller, larger)
