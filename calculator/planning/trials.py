"""A plan at several values of one setting."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator.devices import Verdict
from calculator.estimate import estimate
from calculator.held import Neighbours
from calculator.planning.search import crossing
from calculator.settings import declared
from calculator.training import Training

if TYPE_CHECKING:
    from calculator.answer import Estimate
    from calculator.request import Request

#: How near to the last value whose tensors fit it is enough to come, as a share of it.
NEAR = 1 / 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """The plan with one value of the setting; its device names a card or a size."""

    value: int
    estimate: Estimate

    @property
    def fits(self) -> bool:
        """Whether what is required is within what the card offers."""
        return self.estimate.fit is not None and self.estimate.fit.verdict is Verdict.FITS

    @property
    def excess(self) -> int:
        """What is required beyond what the card offers, bytes."""
        assert self.estimate.fit is not None
        return -self.estimate.fit.headroom_bytes

    @property
    def least_excess(self) -> int:
        """The same without the allocator's slack: live tensors, workspaces and context."""
        memory = self.estimate.memory
        slack = memory.peak_reserved_bytes - memory.peak_allocated_bytes - memory.library_workspace_bytes
        return self.excess - slack


class Trials:
    """The points of a plan that were tried, each estimated once."""

    def __init__(self, request: Request, name: str) -> None:
        self.request, self.name = request, name
        self.neighbours = Neighbours()
        self.points: dict[int, Point] = {}

    def at(self, value: int) -> Point:
        """The plan with a value of the setting.

        Raises:
            PlanError: where that plan is refused.
        """
        if value not in self.points:
            request = with_value(self.request, self.name, value)
            self.points[value] = Point(value=value, estimate=estimate(request, self.neighbours))
        return self.points[value]

    def edge(self, low: int, high: int) -> int:
        """A value from `low` on that fits while the next does not; `low` fits and `high` does not."""
        tried = sorted(self.points.values(), key=lambda point: point.value)
        low = max(point.value for point in tried if low <= point.value < high and point.fits)
        high = min((point.value for point in tried if low < point.value < high and not point.fits), default=high)
        return crossing(lambda value: self.at(value).excess, low, high)[0]

    def beyond(self, low: int, high: int) -> int:
        """A value, soon after the last one whose live tensors fit, from which on none does; `high` where there is none.

        With `low` the live tensors fit, and `high` does not fit.
        """
        if self.at(high).least_excess <= 0:
            return high
        return crossing(lambda value: self.at(value).least_excess, low, high, near=NEAR)[1]


def with_value(request: Request, name: str, value: Any) -> Request:
    """The plan with another value of one setting, of its training or else of its method."""
    change: dict[str, Any] = {name: value}
    if name in {told.name for told in declared(Training)}:
        return replace(request, training=replace(request.training, **change))
    method: Any = request.method
    return replace(request, method=replace(method, **change))
