"""The result of a method under each sharding that a plan chooses from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from calculator.planning.evaluations import evaluated
from calculator.planning.ranking import sort_key
from calculator.planning.rejections import rejection
from calculator.planning.sharding_search import under_each

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.inputs.sharding import ShardingName
    from calculator.planning.evaluator import Evaluator
    from calculator.planning.reasons.reason import Evaluation
    from calculator.planning.sharding_search import MethodResult
    from calculator.speed.step_cost import StepCost


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardingOption:
    """A method's best configuration under a sharding, or why there is none."""

    sharding: ShardingName
    #: Why the method is refused or does not fit. Empty if it fits.
    sentence: str = ""
    request: Request | None = None
    estimate: Estimate | None = None
    cost: StepCost | None = None


def sharding_options(chosen: MethodResult, evaluators: Sequence[Evaluator]) -> Iterator[ShardingOption]:
    """Yield a method's option under each sharding, the chosen one first. Yield nothing if there is no choice."""
    if len(evaluators) == 1:
        return
    for result in sorted(under_each(chosen, evaluators), key=lambda result: result is not chosen):
        sharding = result.evaluator.device.sharding
        best = _best_evaluation(result)
        if best is None:
            yield ShardingOption(sharding=sharding, sentence=rejection(result).sentence)
        else:
            request = result.evaluator.request(best.candidate)
            yield ShardingOption(sharding=sharding, request=request, estimate=best.answer, cost=best.cost)


def _best_evaluation(result: MethodResult) -> Evaluation | None:
    """Return the evaluation of the candidate that ranks first."""
    return min((evaluated(one, result.evaluator) for one in result.result.candidates), key=sort_key, default=None)
