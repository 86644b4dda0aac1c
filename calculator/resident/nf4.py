"""The levels of 4-bit NormalFloat, and the share of a Gaussian that rounds to each."""

import struct
from itertools import pairwise
from statistics import NormalDist


def _float32(value: float) -> float:
    """Return the nearest single-precision number."""
    (rounded,) = struct.unpack("f", struct.pack("f", value))
    return float(rounded)


_OFFSET = _float32(0.9677083)
"""The largest quantile. Source: bitsandbytes.functional.create_normal_map."""

_GAUSSIAN = NormalDist()


def levels() -> tuple[float, ...]:
    """Return the 16 levels from -1 to 1: eight quantiles above zero, seven below, and zero itself.

    Quantiles and levels are rounded to single precision, as in the table that bitsandbytes ships.

    Source: bitsandbytes.functional.create_normal_map.
    """
    above = [_GAUSSIAN.inv_cdf(q) for q in _quantiles(8)]
    below = [-_GAUSSIAN.inv_cdf(q) for q in _quantiles(7)]
    values = [_float32(value) for value in sorted([*below, 0.0, *above])]
    return tuple(_float32(value / values[-1]) for value in values)


def scale() -> float:
    """Return level 1 in standard deviations."""
    return _GAUSSIAN.inv_cdf(_OFFSET)


def bin_masses() -> tuple[float, ...]:
    """Return the share of a Gaussian that rounds to each level, if level 1 is the largest quantile."""
    edges = [(low + high) / 2 * scale() for low, high in pairwise(levels())]
    below = [0.0, *(_GAUSSIAN.cdf(edge) for edge in edges), 1.0]
    return tuple(high - low for low, high in pairwise(below))


def _quantiles(count: int) -> list[float]:
    step = (_OFFSET - 0.5) / count
    return [_float32(_OFFSET - i * step) for i in range(count)]
