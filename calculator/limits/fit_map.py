"""Which batches and sequences fit a card: an estimate for every pair of micro-batch and sequence length."""

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

#: The most rows and columns: a map needs some dozens of estimates.
MAX_LENGTHS = 8
MAX_BATCHES = 8

#: The minimum of the request's field.
MIN_LENGTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The estimate for one pair. If the request is refused, `estimate` is None and `reason` states why."""

    micro_batch_size: int
    sequence_length: int
    estimate: Estimate | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitMap:
    """Rows by sequence length and columns by micro-batch, both ascending. `own` is the request's own pair."""

    own: tuple[int, int]
    micro_batch_sizes: tuple[int, ...]
    sequence_lengths: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]


def fit_map(request: Request) -> FitMap:
    """The map around a request, which is one of its cells.

    Raises:
        PlanError: if the request names no device.
    """
    if request.device.gpu is None and request.device.memory_bytes is None:
        raise refusal("device", "a map of what fits needs a card: give device.gpu or device.memory_bytes")
    model = model_of(request.model)
    request = within_positions(request, model)
    training, longest = request.training, bound(request, model, "sequence_length").limit
    batches = doublings(training.micro_batch_size, 1, 1 << 16, MAX_BATCHES)
    lengths = doublings(training.sequence_length, MIN_LENGTH, longest, MAX_LENGTHS)
    series = SeriesCache()
    rows = tuple(tuple(_cell(request, batch, length, series) for batch in batches) for length in lengths)
    own = (training.micro_batch_size, training.sequence_length)
    return FitMap(own=own, micro_batch_sizes=batches, sequence_lengths=lengths, rows=rows)


def doublings(value: int, least: int, most: int, count: int) -> tuple[int, ...]:
    """Up to `count` halves and doubles of a value from `least` to `most`, ascending, with the value near the middle."""
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
