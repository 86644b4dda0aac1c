"""The time and the cost of a run in words, for the page, the JSON API and the command line."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from calculator.speed.interval import coverage
from calculator.speed.prediction import LEVEL
from calculator.speed.published import published_runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.run.time import RunTime
    from calculator.speed.prediction import Interval
    from calculator.speed.prices import ListCost
    from calculator.speed.token_cost import TokenCost


def interval(value: Interval, unit: str = "") -> str:
    """Return an interval with three digits at each end."""
    return f"{_digits(value.low)} to {_digits(value.high)}{unit and f' {unit}'}"


def _digits(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2g}" if value < 1 else f"{value:.2f}"


def sentence(time: RunTime) -> str:
    """Say how long the steps take, and how fast they are."""
    speed = interval(time.speed.tokens_per_second, "tokens per second")
    return f"{time.steps:,} training steps take {interval(time.hours, 'hours')}, at {speed}."


def basis(time: RunTime) -> str:
    """Say where the interval comes from."""
    runs = time.speed.runs
    sources = ", ".join(dict.fromkeys(run.source.title for run in runs))
    reached = f"{time.speed.efficiency.low:.0%} to {time.speed.efficiency.high:.0%}".replace("%", " %")
    rated = time.speed.seconds_per_step.high * time.speed.efficiency.low
    return (
        f"At the GPU's rated speed, a step takes {rated:.3g} s. "
        f"With a probability of {LEVEL:.0%}, a run reaches {reached} of that speed".replace("%", " %")
        + f", according to {len(runs)} similar published runs ({sources})."
    )


def token_cost(cost: TokenCost) -> str:
    """Say what a million tokens cost, and how fast the configuration is."""
    amount = interval(cost.per_million_tokens, cost.price.currency)
    return f"A million tokens cost {amount}, at {interval(cost.speed.tokens_per_second, 'tokens per second')}."


def accuracy() -> str:
    """Say how such intervals compare with published speeds of a source that is left out."""
    every, *sources = coverage()
    width = "" if every.width is None else f" Their median width is a factor of {every.width:.1f}."
    by_source = ", ".join(f"{source.covered} of {source.runs} of {source.source}" for source in sources if source.runs)
    share = "" if every.share is None else f"; averaged over the sources, {every.share:.0%}".replace("%", " %")
    return (
        f"Of {every.runs} published speeds, the interval from the other sources contains {every.covered} "
        f"({by_source}){share}.{width}{''.join(_left_out())}"
    )


def _left_out() -> Iterator[str]:
    """Say for each source without runs in any interval why it has none."""
    runs = Counter(run.source for run in published_runs() if run.source.left_out)
    yield from (
        f" The {count} runs of {source.name} are excluded: {source.left_out}." for source, count in runs.items()
    )


def list_cost(cost: ListCost) -> str:
    """Say what the run costs at a list price, with the date of the price."""
    price = cost.price
    return (
        f"{price.cloud}: {interval(cost.cost, price.currency)}, at {price.per_hour:.2f} {price.currency} an hour on "
        f"{price.date}"
    )
