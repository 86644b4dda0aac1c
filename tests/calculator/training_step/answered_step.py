"""The training step of an estimate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.estimation.estimate import estimate
from calculator.estimation.series import SeriesCache

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from calculator.training_step.step import TrainingStep


def answered_step(request: Request, *, traces_first: bool, whole: bool = False) -> TrainingStep | None:
    """Return the step of a request's estimate, or None if the request is refused."""
    series = SeriesCache(traces_first=traces_first)
    try:
        estimate(request, series, whole=whole)
    except PlanError:
        return None
    return series.step
