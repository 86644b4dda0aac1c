"""The limits of a plan: the largest value of each setting, the fewest GPUs, and a map of what fits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from app.api.answers.limits import limits_answer
from app.pages.limits.answers import FitMapAnswer, PlanLimitsAnswer
from calculator.estimation.estimate import model_of
from calculator.estimation.request import parse_request
from calculator.limit_search.bounds import solvable_of
from calculator.limit_search.fewest import on_one_node
from calculator.limit_search.fit_map import fit_map
from calculator.limit_search.limits import LimitRequest, limit

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from calculator.limit_search.bounds import SolveFor
    from calculator.limit_search.fit_map import Cell, FitMap
    from calculator.limit_search.limit import Limit


@dataclass(frozen=True, kw_only=True)
class PlanLimits:
    """The limits of a run, each computed when it is first read."""

    request: Request

    @cached_property
    def largest(self) -> tuple[Limit, ...]:
        """The limit of each setting with the others unchanged."""
        model = model_of(self.request.model)
        return tuple(_limit(self.request, name) for name in solvable_of(self.request, model))

    @cached_property
    def fewest(self) -> Limit | None:
        """The fewest GPUs, if the run is sharded."""
        return _limit(on_one_node(self.request), "count") if self.request.device.sharding != "none" else None

    @cached_property
    def map(self) -> FitMap:
        """The map of verdicts by batch and sequence."""
        return fit_map(self.request)

    @property
    def limits(self) -> tuple[Limit, ...]:
        """All limits."""
        return self.largest if self.fewest is None else (*self.largest, self.fewest)

    def answer(self) -> PlanLimitsAnswer:
        """Return the JSON version."""
        rows = tuple(tuple(_cell(cell) for cell in row) for row in self.map.rows)
        axes = {"micro_batch_sizes": self.map.micro_batch_sizes, "sequence_lengths": self.map.sequence_lengths}
        return PlanLimitsAnswer(
            limits=tuple(limits_answer(result) for result in self.limits),
            map=FitMapAnswer.model_validate({**axes, "rows": rows}),
        )


def plan_limits(body: Any) -> PlanLimits:
    """Return the limits of an estimate's request body.

    Raises:
        PlanError: if the request is invalid; where limits are read, if it has no device or the libraries refuse it.
    """
    return _limits_of_text(json.dumps(body, sort_keys=True))


@lru_cache(maxsize=8)
def _limits_of_text(body: str) -> PlanLimits:
    """Return the limits of a body as JSON text. The last few are kept: a browser asks again whenever it goes back."""
    return PlanLimits(request=parse_request(json.loads(body)))


def _limit(request: Request, name: SolveFor) -> Limit:
    return limit(LimitRequest(request=request, solve_for=name))


def _cell(cell: Cell) -> dict[str, Any]:
    fit = cell.estimate.fit if cell.estimate else None
    return {
        "micro_batch_size": cell.micro_batch_size,
        "sequence_length": cell.sequence_length,
        "verdict": fit.verdict if fit else None,
        "required_bytes": cell.estimate.memory.required_bytes if cell.estimate else None,
        "headroom_bytes": fit.headroom_bytes if fit else None,
        "reserved": cell.estimate.reserved if cell.estimate else None,
        "reason": cell.reason,
    }
