"""The batches and sequence lengths that fit a GPU: an estimate for every pair of micro-batch and sequence length.

Reserved memory is by the rule if it is far from the GPU's limit. The pairs near the limit, and the request's own pair,
are replayed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, refusal
from calculator.devices.near_limit import is_near_limit
from calculator.estimation.estimate import estimate, model_of
from calculator.estimation.positions import within_positions
from calculator.estimation.request import reserved_by
from calculator.estimation.series import SeriesCache
from calculator.limit_search.bounds import bound, solvable_of

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.devices import Fit
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.inputs.sharding import ShardingName

#: The maximum number of rows and columns: a map needs some dozens of estimates.
MAX_LENGTHS = 8
MAX_BATCHES = 8

#: The maximum number of pairs that are replayed in addition to the request's own, and the maximum for shardings that
#: have more pairs near the limit.
MAX_REPLAYED = 12
MAX_REPLAYED_OF: dict[ShardingName, int] = {"fsdp": 36}

#: The minimum of the request's field.
MIN_LENGTH = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The estimate for one pair. If the request is refused, `estimate` is None and `reason` says why."""

    micro_batch_size: int
    sequence_length: int
    estimate: Estimate | None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FitMap:
    """Rows by sequence length and columns by micro-batch, both ascending. `own` is the request's own pair.

    `near` is the number of pairs near the limit that are by the rule nonetheless, because there are too many.
    """

    own: tuple[int, int]
    micro_batch_sizes: tuple[int, ...]
    sequence_lengths: tuple[int, ...]
    rows: tuple[tuple[Cell, ...], ...]
    near: int = 0


def fit_map(request: Request) -> FitMap:
    """Return the map around a request, which is one of its cells.

    Raises:
        PlanError: if the request names no device.
    """
    if request.device.gpu is None and request.device.memory_bytes is None:
        raise refusal("device", "a map of what fits needs a GPU: give device.gpu or device.memory_bytes")
    model = model_of(request.model)
    request = within_positions(request, model)
    training = request.training
    batches = doublings(training.micro_batch_size, 1, 1 << 16, MAX_BATCHES)
    lengths = _lengths(request, model)
    series = SeriesCache(replays_several=True)
    replays = (
        reserved_by(request.reserved, request.device, request.training) == "replay" and request.accounting == "exact"
    )
    ruled = replace(request, reserved="rule") if replays else request
    cells = {(batch, length): _estimate_cell(ruled, batch, length, series) for length in lengths for batch in batches}
    current = (training.micro_batch_size, training.sequence_length)
    sharding = request.device.sharding
    near = [pair for pair, cell in cells.items() if is_near_limit(_fit(cell), sharding)]
    near.sort(key=lambda pair: _distance(cells[pair]))
    most = MAX_REPLAYED_OF.get(sharding, MAX_REPLAYED)
    for batch, length in dict.fromkeys((current, *near[:most])) if replays else ():
        cells[batch, length] = _estimate_cell(request, batch, length, series)
    rows = tuple(tuple(cells[batch, length] for batch in batches) for length in lengths)
    left = len(near[most:]) if replays else 0
    return FitMap(own=current, micro_batch_sizes=batches, sequence_lengths=lengths, rows=rows, near=left)


def _fit(cell: Cell) -> Fit | None:
    return cell.estimate.fit if cell.estimate else None


def _distance(cell: Cell) -> int:
    """Return how far the rule's requirement is from what the GPU offers."""
    fit = _fit(cell)
    assert fit is not None
    return abs(fit.headroom_bytes)


def doublings(value: int, least: int, most: int, count: int) -> tuple[int, ...]:
    """Return up to `count` halves and doubles of a value from `least` to `most`, ascending.

    The value is near the middle.
    """
    below: list[int] = []
    half = value
    while half % 2 == 0 and half // 2 >= least and len(below) < (count - 1) // 2:
        half //= 2
        below.append(half)
    above = [value << step for step in range(1, count - len(below)) if value << step <= most]
    return (*reversed(below), value, *above)


def _lengths(request: Request, model: Model) -> tuple[int, ...]:
    """Return the lengths of a map: doublings of the request's length, or that of an image or of audio alone."""
    length = request.training.sequence_length
    if "sequence_length" not in solvable_of(request, model):
        return (length,)
    return doublings(length, MIN_LENGTH, bound(request, model, "sequence_length").limit, MAX_LENGTHS)


def _estimate_cell(request: Request, batch: int, length: int, series: SeriesCache) -> Cell:
    training = replace(request.training, micro_batch_size=batch, sequence_length=length)
    try:
        answer = estimate(replace(request, training=training, length_given=True), series)
    except PlanError as error:
        reason = "; ".join(problem.msg for problem in error.problems)
        return Cell(micro_batch_size=batch, sequence_length=length, estimate=None, reason=reason)
    return Cell(micro_batch_size=batch, sequence_length=length, estimate=answer)
