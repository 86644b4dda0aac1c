"""A candidate with its estimate, its cost and its price. Configurations are ranked by these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.planning.reasons.reason import Evaluation
from calculator.speed.prices import hour_price
from calculator.speed.step_cost import step_cost
from calculator.speed.token_cost import token_cost

if TYPE_CHECKING:
    from calculator.planning.evaluator import Candidate, Evaluator


def evaluated(candidate: Candidate, evaluator: Evaluator) -> Evaluation:
    """Evaluate a candidate by the estimate that the search has of it. There must be one."""
    answer = evaluator.answer(candidate)
    assert answer is not None
    request = evaluator.request(candidate)
    cost = step_cost(evaluator.model, request, answer)
    price = hour_price(evaluator.device) if "cost" in evaluator.needs.priorities else None
    return Evaluation(
        evaluator=evaluator,
        candidate=candidate,
        answer=answer,
        cost=cost,
        token_cost=token_cost(request, cost, price) if price else None,
    )
