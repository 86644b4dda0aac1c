"""The fields of a request that make its answer slow. Changing them is the way out of a limit on CPU time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.http.problems import problem_response
from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.responses import Response

    from calculator.common.budget import OverBudgetError

#: The lists of a request whose entries are all computed, and what they contain.
_LISTS = {"methods": "methods", "models": "models", "devices": "devices"}

#: Two micro-batches are replayed in any case.
_FEW_MICRO_BATCHES = 2


def over_budget_problems(error: OverBudgetError, body: Any) -> tuple[Problem, ...]:
    """Return the problems of a request whose answer takes too long; one without a field if no field would help."""
    why = f"the answer takes more than {error.seconds:g} seconds of CPU time"
    problems = tuple(
        Problem(loc=loc, msg=f"{why}: {way_out}", input=value)
        for loc, value, way_out in (_ways_out(body) if isinstance(body, Mapping) else ())
    )
    return problems or (Problem(loc="", msg=str(error)),)


def over_budget_response(error: OverBudgetError, body: Any) -> Response:
    """Return the problem document of a request whose answer takes too long."""
    problems = over_budget_problems(error, body)
    return problem_response(422, str(error), [problem for problem in problems if problem.loc])


def _ways_out(body: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """Yield fields by dotted path, their values, and what would shorten the answer."""
    reserved = body.get("reserved", "replay")
    if reserved != "rule" and "request" not in body:
        yield "reserved", reserved, "set it to rule, which replays nothing"
    for name, entries in _LISTS.items():
        listed = body.get(name)
        if isinstance(listed, list) and len(listed) > 1:
            yield name, listed, f"name fewer {entries}"
    serving = body.get("serving")
    if isinstance(serving, Mapping) and "max_new_tokens" in serving:
        yield "serving.max_new_tokens", serving["max_new_tokens"], "generate fewer tokens"
    yield from _training_changes("", body)
    yield from _training_changes("request.", body.get("request"))


def _training_changes(prefix: str, body: Any) -> Iterator[tuple[str, Any, str]]:
    training = body.get("training") if isinstance(body, Mapping) else None
    if not isinstance(training, Mapping):
        return
    lengths, steps = training.get("sequence_lengths"), training.get("gradient_accumulation_steps")
    if lengths:
        yield f"{prefix}training.sequence_lengths", lengths, "give fewer lengths, or only sequence_length"
    if isinstance(steps, int) and steps > _FEW_MICRO_BATCHES:
        yield f"{prefix}training.gradient_accumulation_steps", steps, "accumulate fewer micro-batches"
