"""Which batches and sequences fit a card: a plan at every pair of a micro-batch and a sequence length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, refusal
from calculator.estimate.compatibility import within_positions
from calculator.estimate.estimate import estimate, model_of
from calculator.estimate.series import SeriesCache
from calculator.limits.bounds import bound

if TYPE_CHECKING:
    from calculator.estimate.answer import Estimate
    from calculator.estimate.request import Request

#: The most rows and columns, so that the map takes some dozens of estimates.
MOST_LENGTHS = 8
MOST_BATCHES = 8

#: The fewest tokens of a sequence, as the request's field has it.
SHORTEST = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The plan at one pair; without an estimate it is refused, and `reason` says why."""

    micro_batch_size: int
    sequence_length: int
    estimate: Estimate | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitMap:
    """A row a sequence length, a column a micro-batch, both growing; `own` are the plan's."""

    own: tuple[int, int]
    micro_batch_sizes: tuple[int, ...]
    sequence_lengths: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]


def fit_map(request: Request) -> FitMap:
    """The map around a plan, which is one of its cells.

    Raises:
        PlanError: where the plan names no device.
    """
    if request.device.gpu is None and request.device.memory_bytes is None:
        raise refusal("device", "a map of what fits needs a card: give device.gpu or device.memory_bytes")
    model = model_of(request.model)
    request = within_positions(request, model)
    training, longest = request.training, bound(request, model, "sequence_length").limit
    batches = doublings(training.micro_batch_size, 1, 1 << 16, MOST_BATCHES)
    lengths = doublings(training.sequence_length, SHORTEST, longest, MOST_LENGTHS)
    series = SeriesCache()
    rows = tuple(tuple(_cell(request, batch, length, series) for batch in batches) for length in lengths)
    own = (training.micro_batch_size, training.sequence_length)
    return FitMap(own=own, micro_batch_sizes=batches, sequence_lengths=lengths, rows=rows)


def doublings(value: int, least: int, most: int, count: int) -> tuple[int, ...]:
    """A value with its halves from `least` on and its doubles up to `most`, growing, the value about in the middle."""
    below: list[int] = []
    half = value
    while half % 2 == 0 and half // 2 >= least and len(below) < (count - 1) // 2:
        half //= 2
        below.append(half)
    above = [value << step for step in range(1, count - len(below)) if value << step <= most]
    return (*reversed(below), value, *above)


def _cell(request: Request, batch: int, length: int, series: SeriesCache) -> Cell:
    training = replace(request.training, micro_batch_size=batch, sequence_length=length)
    try:
        answer = estimate(replace(request, training=training, length_given=True), series)
    except PlanError as error:
        reason = "; ".join(problem.msg for problem in error.problems)
        return Cell(micro_batch_size=batch, sequence_length=length, estimate=None, reason=reason)
    return Cell(micro_batch_size=batch, sequence_length=length, estimate=answer)
