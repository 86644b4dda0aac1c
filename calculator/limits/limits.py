"""The largest value of a setting that still fits the device, everything else fixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimate.compatibility import within_positions
from calculator.estimate.estimate import model_of
from calculator.estimate.request import Request, parse_request
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.limits.bounds import Bound, SolveFor, bound, outgrown, solved
from calculator.limits.non_monotonic import following, likely, spread
from calculator.limits.probes import ProbeResult, Probes

#: How many of the likeliest values come before those next to the edge.
LIKELIEST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRequest:
    """A request for an estimate, and its setting whose limit is wanted."""

    request: Request
    solve_for: SolveFor


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The largest value that fits, its bound, and the estimates there and one step above."""

    solve_for: SolveFor
    bound: Bound
    #: The largest value that fits; None if no value fits.
    at: ProbeResult | None
    #: One step above `at`, or the smallest value if none fits; None if that is refused.
    above: ProbeResult | None
    #: Which values were estimated.
    guarantee: str
    warnings: tuple[str, ...] = ()

    @property
    def value(self) -> int | None:
        """The largest value that fits."""
        return self.at.value if self.at else None


def parse_limit(body: Any) -> LimitRequest:
    """Parse a limit's request from decoded JSON: an estimate's request and `solve_for`.

    Reserved memory is by the rule, unless the request sets it: a search replays some dozens of values.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems: list[Problem] = []
    name: Any = body.get("solve_for")
    names = get_args(SolveFor)
    if name not in names:
        problems.append(Problem(loc="solve_for", msg=f"must be one of {', '.join(names)}", input=name))
    request = None
    try:
        request = parse_request(
            {"reserved": "rule"} | {key: value for key, value in body.items() if key != "solve_for"}
        )
    except PlanError as error:
        problems += error.problems
    if problems or request is None:
        raise PlanError(*problems)
    return LimitRequest(request=request, solve_for=name)


def limit(limit_request: LimitRequest) -> Limit:
    """Answer a limit's request.

    Raises:
        PlanError: if no device is given, the method has no such setting, or the request itself is refused.
    """
    name, field = limit_request.solve_for, solved(limit_request.request, limit_request.solve_for)
    _check(limit_request)
    model = model_of(limit_request.request.model)
    request = replace(within_positions(limit_request.request, model), length_given=True)
    probes, lowest = Probes(request, name), int(field.setting.minimum or 0)
    first = probes.point(lowest)
    upper = bound(request, model, name)
    highest = upper.limit
    if highest < lowest:
        return Limit(solve_for=name, bound=upper, at=None, above=first, guarantee="There is no value to try.")
    if probes.fits(highest):
        answer = _at_bound(name, probes, upper, f"{highest:,} fits, and no larger value was tried.")
    else:
        answer = _within_memory(name, probes, lowest, highest)
    return replace(answer, warnings=outgrown(request, model, answer.value) if name == "r" and answer.value else ())


def _check(limit_request: LimitRequest) -> None:
    device = limit_request.request.device
    if device.gpu is None and device.memory_bytes is None:
        raise refusal("device", "a limit needs a card: give device.gpu or device.memory_bytes")
    name, names = limit_request.solve_for, {field.name for field in declared(Training)}
    if limit_request.request.accounting == "textbook" and name in names:
        message = f"textbook accounting counts no activations, so every {name} needs the same: use exact"
        raise refusal("accounting", message, "textbook")


def _within_memory(name: SolveFor, probes: Probes, lowest: int, highest: int) -> Limit:
    """The limit that memory sets; `highest` does not fit.

    Required memory is not monotonic in the value, because fragmentation may shrink. The live tensors are: from some
    value on, not even they fit. Below that value, those at which less memory may be required are tried.
    """
    first = probes.at(lowest)
    if first.least_excess > 0:
        guarantee = f"Not even the live tensors fit with {lowest:,}, the smallest value."
        return _nothing(name, probes, lowest, guarantee)
    end = probes.first_without_room(lowest, highest)
    best = probes.edge(lowest, end) if first.fits else lowest - 1
    if probes.request.accounting == "exact":
        best = _higher(probes, best, end)
    guarantee = _guarantee(probes, best, end)
    if best < lowest:
        return _nothing(name, probes, lowest, guarantee)
    above = probes.point(best + 1)
    return Limit(solve_for=name, bound=_memory(above), at=probes.point(best), above=above, guarantee=guarantee)


def _higher(probes: Probes, best: int, end: int) -> int:
    """The largest value below `end` that fits among those at which less may be required; else `best`."""
    candidates = likely(probes, best + 1, end)
    while True:
        values = [*candidates[:LIKELIEST], *following(probes, best + 1, end), *candidates[LIKELIEST:]]
        higher = probes.largest((value for value in values if value > best), spread(best + 1, end))
        if higher is None:
            return best
        best = probes.climb(higher, end)


def _nothing(name: SolveFor, probes: Probes, lowest: int, guarantee: str) -> Limit:
    above = probes.point(lowest)
    return Limit(solve_for=name, bound=_memory(above), at=None, above=above, guarantee=guarantee)


def _at_bound(name: SolveFor, probes: Probes, upper: Bound, guarantee: str) -> Limit:
    value = upper.limit
    try:
        above = probes.point(value + 1) if value < _field_maximum(probes.request, name) else None
    except PlanError:
        above = None
    return Limit(solve_for=name, bound=upper, at=probes.point(value), above=above, guarantee=guarantee)


def _field_maximum(request: Request, name: SolveFor) -> float:
    return solved(request, name).setting.maximum or 0


def _memory(above: ProbeResult) -> Bound:
    fit, required = above.estimate.fit, above.estimate.memory.required_bytes
    assert fit is not None
    reason = f"{above.value:,} would require {required:,} bytes of the {fit.usable_bytes:,} that the card offers"
    return Bound(by="memory", limit=fit.usable_bytes, reason=reason)


def _guarantee(probes: Probes, best: int, end: int) -> str:
    edge = f"{best:,} fits and {best + 1:,} does not" if best in probes.tried else f"{best + 1:,} does not fit"
    tried = sum(best + 1 < value < end for value in probes.tried)
    between = f"; between, {tried:,} values were tried and none fits" if tried else ""
    if probes.by_rule(end).least_excess > 0:
        return f"{edge}. From {end:,} on, not even the live tensors fit{between}."
    return f"{edge}, nor does {end:,}, the largest possible value{between}."
