"""The levels of 4-bit NormalFloat, and how much of a Gaussian rounds to each."""

from itertools import pairwise
from statistics import NormalDist

_OFFSET = 0.9677083
"""The largest quantile taken. Source: bitsandbytes.functional.create_normal_map."""

_GAUSSIAN = NormalDist()


def levels() -> tuple[float, ...]:
    """The 16 levels, from -1 to 1: eight quantiles above zero, seven below, and zero itself.

    Source: bitsandbytes.functional.create_normal_map.
    """
    above = [_GAUSSIAN.inv_cdf(q) for q in _quantiles(8)]
    below = [-_GAUSSIAN.inv_cdf(q) for q in _quantiles(7)]
    return tuple(value / max(above) for value in sorted([*below, 0.0, *above]))


def bin_masses() -> tuple[float, ...]:
    """The share of a Gaussian that rounds to each level, where level 1 stands for the largest quantile taken."""
    scale = _GAUSSIAN.inv_cdf(_OFFSET)
    edges = [(low + high) / 2 * scale for low, high in pairwise(levels())]
    below = [0.0, *(_GAUSSIAN.cdf(edge) for edge in edges), 1.0]
    return tuple(high - low for low, high in pairwise(below))


def _quantiles(count: int) -> list[float]:
    step = (_OFFSET - 0.5) / count
    return [_OFFSET - i * step for i in range(count)]
