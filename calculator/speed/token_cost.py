"""The cost in money of training a number of tokens, at the price of the device."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.speed.interval import speed_of

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from calculator.speed.interval import Speed
    from calculator.speed.prediction import Interval
    from calculator.speed.prices import HourPrice
    from calculator.speed.step_cost import StepCost

MILLION = 10**6
SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenCost:
    """The cost of a million trained tokens, as an interval that derives from the interval of the speed."""

    speed: Speed
    price: HourPrice
    per_million_tokens: Interval

    @property
    def middle(self) -> float:
        """The geometric mean of the ends of the interval."""
        return sqrt(self.per_million_tokens.low * self.per_million_tokens.high)


def token_cost(request: Request, cost: StepCost, price: HourPrice) -> TokenCost | None:
    """Return the cost of a million tokens, or None if the speed is not known."""
    try:
        speed = speed_of(request, cost)
    except PlanError:
        return None
    tokens = speed.tokens_per_second.low * speed.seconds_per_step.high
    return TokenCost(
        speed=speed,
        price=price,
        per_million_tokens=speed.seconds_per_step.times(price.per_hour / SECONDS_PER_HOUR * MILLION / tokens),
    )
