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
        larger_divisor = next(divisor for divisor in range(smaller + 1, size + 1) if size % divisor == 0)
        if larger_divisor + size // larger_divisor > smaller + larger or larger_divisor > most:
            break
        smaller, larger = larger_divisor, size // larger_divisor
    return min(smaller, larger), max(smaller, larger)
