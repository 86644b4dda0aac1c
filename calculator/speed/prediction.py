"""The prediction interval for a run of a new source, from the variance between the known sources.

The logarithm of an efficiency is the sum of an effect of the source, which all its runs share, and an effect of the
run. The number of sources limits what is known, not the number of runs: ten runs of one source say little more about
the next source than one run does.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, log, sqrt
from statistics import mean, variance
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

#: The probability that the run of a new source is in the interval.
LEVEL = 0.8

#: Student's t at 1 - (1 - LEVEL) / 2 for 1, 2, ... degrees of freedom, and for infinitely many.
_T = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372)
_NORMAL = 1.282


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """The lower and the upper end of a figure."""

    low: float
    high: float

    def times(self, factor: float) -> Interval:
        """Return the interval with both ends multiplied by a positive factor."""
        return Interval(low=self.low * factor, high=self.high * factor)


def predicted(by_source: Sequence[Sequence[float]]) -> Interval:
    """Predict the interval for the efficiency of a new source from those of two or more sources, at most 1.

    Source: Student's prediction interval for a normal variable, computed from the means of the sources, with the
    variance of the runs within a source added.
    """
    logs = [[log(efficiency) for efficiency in efficiencies] for efficiencies in by_source]
    means = [mean(ratios) for ratios in logs]
    between = variance(means) * (1 + 1 / len(means))
    half = _t(len(means) - 1) * sqrt(between + _variance_within_sources(logs))
    return Interval(low=exp(mean(means) - half), high=min(1.0, exp(mean(means) + half)))


def _variance_within_sources(logs: Sequence[Sequence[float]]) -> float:
    """Return the variance of the runs around the mean of their source."""
    freedom = sum(len(ratios) - 1 for ratios in logs)
    if not freedom:
        return 0.0
    return sum((value - mean(ratios)) ** 2 for ratios in logs for value in ratios) / freedom


def _t(freedom: int) -> float:
    return _T[freedom - 1] if freedom <= len(_T) else _NORMAL
