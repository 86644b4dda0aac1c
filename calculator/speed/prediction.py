"""The prediction interval of a run from a new source, by the variance between known sources.

The logarithm of an efficiency has an effect of its source, which all runs of it share, and one of the run. Sources are
drawn again, so that their number bounds what is known, not that of their runs: ten runs of a source say little more
about the next source than one.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import mean, variance
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The share of further sources whose run is in the interval.
LEVEL = 0.8

#: Student's t at 1 - (1 - LEVEL) / 2 for 1, 2, ... degrees of freedom, and for infinitely many.
_T = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
_NORMAL = 1.282


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The least and the most of a figure."""

    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Both ends times a positive factor."""
        return Interval(low=self.low * factor, high=self.high * factor)


def predicted(by_source: Sequence[Sequence[float]]) -> Interval:
    """The interval of a further source's efficiency, from those of two or more sources. The rated speed, 1, bounds it.

    Source: Student's prediction interval of a normal variable, of the sources' means, with the variance of the runs
    within a source added.
    """
    logs = [[log(each) for each in efficiencies] for efficiencies in by_source]
    means = [mean(each) for each in logs]
    between = variance(means) * (1 + 1 / len(means))
    half = _t(len(means) - 1) * sqrt(between + _within(logs))
    return Interval(low=exp(mean(means) - half), high=min(1.0, exp(mean(means) + half)))


def _within(logs: Sequence[Sequence[float]]) -> float:
    """The variance of the runs around the mean of their source."""
    freedom = sum(len(each) - 1 for each in logs)
    if not freedom:
        return 0.0
    return sum((value - mean(each)) ** 2 for each in logs for value in each) / freedom


def _t(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else _NORMAL
