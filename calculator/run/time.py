"""The duration and the cost of a run's training steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import model_of
from calculator.speed.interval import refused_because, speed_of
from calculator.speed.prices import ListCost, list_prices
from calculator.speed.step_cost import step_cost

if TYPE_CHECKING:
    from calculator.estimation.answer import Estimate
    from calculator.run.request import RunRequest
    from calculator.speed.interval import Speed
    from calculator.speed.prediction import Interval

SECONDS_PER_HOUR = 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """The time and the cost of the training steps. Loading, evaluation, checkpoints and merging are not included.

    Attributes:
        speed: The interval of their speed, and the published runs that it comes from.
        steps: The number of optimizer steps of the run.
        hours: The duration of the steps.
        cost: The cost at the price in the request. None without a price.
        list_costs: The cost at the list prices of some clouds.
    """

    speed: Speed
    steps: int
    hours: Interval
    cost: Interval | None
    list_costs: tuple[ListCost, ...]


def time_of(request: RunRequest, step: Estimate) -> tuple[RunTime | None, str]:
    """Return the time of a run, or why it is not known."""
    device = request.estimate.device
    cost = step_cost(model_of(request.estimate.model), request.estimate, step)
    try:
        speed = speed_of(request.estimate, cost)
    except PlanError as error:
        return None, refused_because(error)
    card, price = card_of(device), device.price_per_hour
    assert card is not None
    hours = speed.seconds_per_step.times(request.run.max_steps / SECONDS_PER_HOUR)
    time = RunTime(
        speed=speed,
        steps=request.run.max_steps,
        hours=hours,
        cost=None if price is None else hours.times(price),
        list_costs=tuple(
            ListCost(price=list_price, cost=hours.times(list_price.per_hour)) for list_price in list_prices(card.id)
        ),
    )
    return time, ""
