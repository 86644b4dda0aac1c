"""The interval of a run's speed: its cost at rated speeds, divided by the efficiencies of similar published runs.

A published run is similar if its micro-batch costs between 1/8 and 8 times as much. If three sources have similar runs
on the same GPU, only those runs count. With fewer than three sources there is no interval.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from statistics import mean, median
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, refusal
from calculator.devices.verdict import card_of
from calculator.speed.prediction import Interval, predicted
from calculator.speed.published import PublishedRun, published_runs, tokens_of_step
from calculator.speed.step_cost import computes_attention_in_float32

if TYPE_CHECKING:
    from collections.abc import Iterable

    from calculator.estimation.request import Request
    from calculator.speed.step_cost import StepCost

#: The largest ratio between the costs of the micro-batches of similar runs.
NEAR = 8

#: The smallest number of sources for an interval.
SOURCES = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """The speed of a run, from the efficiency that is predicted for a run of a new source."""

    efficiency: Interval
    tokens_per_second: Interval
    seconds_per_step: Interval
    runs: tuple[PublishedRun, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How well intervals predict the published runs of a source that is left out.

    Attributes:
        source: The name of the source that is left out. Empty for the total over all sources.
        runs: The runs with an interval.
        covered: The runs whose published speed is in the interval.
        refused: The runs without an interval.
        width: The median ratio of the upper to the lower end. None without an interval.
        sources: The sources of which a run has an interval.
        share: The mean over these sources of the share of their runs that is covered. None without a source.
    """

    source: str
    runs: int
    covered: int
    refused: int
    width: float | None
    sources: int
    share: float | None


def speed_of(request: Request, cost: StepCost) -> Speed:
    """Return the speed of a run, given the cost of its optimizer step.

    Raises:
        PlanError: if the GPU has no rated speed, or no published run is similar.
    """
    card = _check(request)
    runs = similar_runs(published_runs(), cost.rated_seconds / request.training.gradient_accumulation_steps, card)
    if not runs:
        message = (
            f"fewer than {SOURCES} published sources have a run that is near: with a micro-batch that costs an eighth"
            f" to {NEAR} times as much. Change micro_batch_size or sequence_length"
        )
        raise refusal("training.micro_batch_size", message, request.training.micro_batch_size)
    reached = _interval(runs)
    seconds = Interval(low=cost.rated_seconds / reached.high, high=cost.rated_seconds / reached.low)
    tokens = tokens_of_step(request)
    return Speed(
        efficiency=reached,
        tokens_per_second=Interval(low=tokens / seconds.high, high=tokens / seconds.low),
        seconds_per_step=seconds,
        runs=runs,
    )


def similar_runs(runs: Iterable[PublishedRun], rated_seconds: float, card: str) -> tuple[PublishedRun, ...]:
    """Return the published runs that are similar to a run. Empty if they have fewer sources than an interval needs."""
    alike = [run for run in runs if run.counts and _is_near(run.rated_seconds, rated_seconds)]
    same = [run for run in alike if run.card == card]
    similar = same if _sources(same) >= SOURCES else alike
    return tuple(similar) if _sources(similar) >= SOURCES else ()


def _interval(runs: Iterable[PublishedRun]) -> Interval:
    """Return the predicted interval for the efficiency of a new source."""
    by_source: dict[str, list[float]] = {}
    for run in runs:
        by_source.setdefault(run.source.name, []).append(run.efficiency)
    return predicted([*by_source.values()])


def _is_near(one: float, other: float) -> bool:
    return max(one, other) <= NEAR * min(one, other)


def _sources(runs: Iterable[PublishedRun]) -> int:
    return len({run.source.name for run in runs})


def _check(request: Request) -> str:
    """Return the id of the GPU of a run, or raise an error if the speed cannot be known."""
    card, training = card_of(request.device), request.training
    if card is None:
        raise refusal("device.gpu", "a speed needs a GPU of the catalogue: name one", request.device.gpu)
    if card.bf16_tflops is None or card.bandwidth_gbs is None:
        message = f"the rated speed of {card.name} is not known: name another GPU"
        raise refusal("device.gpu", message, request.device.gpu)
    if card.fp32_tflops is None and computes_attention_in_float32(request):
        message = f"attention runs in float32, whose rated speed on {card.name} is not known: use training.autocast"
        raise refusal("device.gpu", message, request.device.gpu)
    if request.device.count > 1:
        message = "the published runs are on one GPU: use 1, and divide by the number of GPUs for the least time"
        raise refusal("device.count", message, request.device.count)
    if training.images is not None:
        message = "the published runs have no images: leave them out"
        raise refusal("training.images", message, None)
    if training.dtype == "float32" and training.autocast is None:
        message = "the published runs compute in 16 bits: use bfloat16, or training.autocast"
        raise refusal("training.dtype", message, training.dtype)
    if request.drawn is not None or training.sequence_lengths is not None:
        message = "the speed of a run with batches of many lengths is not known: leave sequence_lengths out"
        raise refusal("training.sequence_lengths", message, None)
    return card.id


def refused_because(error: PlanError) -> str:
    """Return why a run has no speed, for an answer that has all other figures."""
    return "; ".join(problem.sentence for problem in error.problems)


@cache
def coverage() -> tuple[Coverage, ...]:
    """Return how many published speeds the intervals contain: first for all sources, then for each source.

    Each interval is made without the runs of the source that it predicts.
    """
    names = dict.fromkeys(run.source.name for run in published_runs() if run.counts)
    runs_by_source = {name: [*_left_out(name)] for name in names}
    every = [run for source_runs in runs_by_source.values() for run in source_runs]
    return (_coverage("", every), *(_coverage(name, source_runs) for name, source_runs in runs_by_source.items()))


def _left_out(name: str) -> Iterable[tuple[PublishedRun, Interval | None]]:
    """Yield each run of a source, with the interval of efficiencies that the other sources predict."""
    others = [run for run in published_runs() if run.source.name != name]
    for run in published_runs():
        if run.source.name == name and run.counts:
            similar = similar_runs(others, run.rated_seconds, run.card)
            yield run, _interval(similar) if similar else None


def _coverage(name: str, intervals: list[tuple[PublishedRun, Interval | None]]) -> Coverage:
    with_interval = [(run, interval) for run, interval in intervals if interval is not None]
    inside = [interval.low <= run.efficiency <= interval.high for run, interval in with_interval]
    shares: dict[str, list[bool]] = {}
    for (run, _), is_inside in zip(with_interval, inside, strict=True):
        shares.setdefault(run.source.name, []).append(is_inside)
    return Coverage(
        source=name,
        runs=len(with_interval),
        covered=sum(inside),
        refused=len(intervals) - len(with_interval),
        width=median(interval.high / interval.low for _, interval in with_interval) if with_interval else None,
        sources=len(shares),
        share=mean(map(mean, shares.values())) if shares else None,
    )
