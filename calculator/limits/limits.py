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

#: The likeliest values come before those next to the edge.
LIKELIEST = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRequest:
    """A plan, and the setting of it that may grow."""

    request: Request
    solve_for: SolveFor


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """The largest value that fits, what bounds it, and the plan there and one step above.

    `at` is None where no value fits. `above` is one step above `at`, or the smallest value where none fits; it is None
    where that is refused. `guarantee` says what was tried, `warnings` what a value of that size means.
    """

    solve_for: SolveFor
    bound: Bound
    at: ProbeResult | None
    above: ProbeResult | None
    guarantee: str
    warnings: tuple[str, ...] = ()

    @property
    def value(self) -> int | None:
        """The largest value that fits."""
        return self.at.value if self.at else None


def parse_limit(body: Any) -> LimitRequest:
    """Read a limit's request from decoded JSON: an estimate's, and `solve_for`.

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
        request = parse_request({key: value for key, value in body.items() if key != "solve_for"})
    except PlanError as error:
        problems += error.problems
    if problems or request is None:
        raise PlanError(*problems)
    return LimitRequest(request=request, solve_for=name)


def limit(asked: LimitRequest) -> Limit:
    """Answer a limit's request.

    Raises:
        PlanError: where no device is given, the method has no such setting, or the plan itself is refused.
    """
    name, told = asked.solve_for, solved(asked.request, asked.solve_for)
    _check(asked)
    model = model_of(asked.request.model)
    request = replace(within_positions(asked.request, model), length_given=True)
    probes, lowest = Probes(request, name), int(told.setting.minimum or 0)
    first = probes.point(lowest)
    most = bound(request, model, name)
    highest = most.limit
    if highest < lowest:
        return Limit(solve_for=name, bound=most, at=None, above=first, guarantee="No value is left to try.")
    if probes.fits(highest):
        found = _found(name, probes, most, highest, f"{highest:,} fits, and nothing beyond it was tried.")
    else:
        found = _within_memory(name, probes, lowest, highest)
    return replace(found, warnings=outgrown(request, model, found.value) if name == "r" and found.value else ())


def _check(asked: LimitRequest) -> None:
    device = asked.request.device
    if device.gpu is None and device.memory_bytes is None:
        raise refusal("device", "a limit needs a card: give device.gpu or device.memory_bytes")
    if asked.request.accounting == "textbook" and asked.solve_for in {told.name for told in declared(Training)}:
        message = f"textbook accounting counts no activations, so every {asked.solve_for} needs the same: take exact"
        raise refusal("accounting", message, "textbook")


def _within_memory(name: SolveFor, probes: Probes, lowest: int, highest: int) -> Limit:
    """The limit that memory sets; `highest` does not fit.

    What is required need not grow with the value everywhere, since the allocator's slack may shrink. The live tensors
    do grow: from some value on not even they fit, and up to there those are tried at which less may be required.
    """
    first = probes.at(lowest)
    if first.least_excess > 0:
        told = f"Not even the live tensors fit with {lowest:,}, the smallest there is."
        return _nothing(name, probes, lowest, told)
    end = probes.beyond(lowest, highest)
    best = probes.edge(lowest, end) if first.fits else lowest - 1
    if probes.request.accounting == "exact":
        best = _higher(probes, best, end)
    told = _guarantee(probes, best, end)
    if best < lowest:
        return _nothing(name, probes, lowest, told)
    above = probes.point(best + 1)
    return Limit(solve_for=name, bound=_memory(above), at=probes.point(best), above=above, guarantee=told)


def _higher(probes: Probes, best: int, end: int) -> int:
    """The largest value known to fit below `end` once those are tried at which less may be required; else `best`."""
    less = likely(probes, best + 1, end)
    while True:
        values = [*less[:LIKELIEST], *following(probes, best + 1, end), *less[LIKELIEST:]]
        higher = probes.largest((value for value in values if value > best), spread(best + 1, end))
        if higher is None:
            return best
        best = probes.climb(higher, end)


def _nothing(name: SolveFor, probes: Probes, lowest: int, guarantee: str) -> Limit:
    above = probes.point(lowest)
    return Limit(solve_for=name, bound=_memory(above), at=None, above=above, guarantee=guarantee)


def _found(name: SolveFor, probes: Probes, bounded: Bound, value: int, guarantee: str) -> Limit:
    try:
        above = probes.point(value + 1) if value < _field_maximum(probes.request, name) else None
    except PlanError:
        above = None
    return Limit(solve_for=name, bound=bounded, at=probes.point(value), above=above, guarantee=guarantee)


def _field_maximum(request: Request, name: SolveFor) -> float:
    return solved(request, name).setting.maximum or 0


def _memory(above: ProbeResult) -> Bound:
    fit, required = above.estimate.fit, above.estimate.memory.required_bytes
    assert fit is not None
    reason = f"{above.value:,} would require {required:,} bytes of the {fit.usable_bytes:,} that the card offers"
    return Bound(by="memory", limit=fit.usable_bytes, reason=reason)


def _guarantee(probes: Probes, best: int, end: int) -> str:
    told = f"{best:,} fits and {best + 1:,} does not" if best in probes.tried else f"{best + 1:,} does not fit"
    tried = sum(best + 1 < value < end for value in probes.tried)
    between = f"; between, {tried:,} values were tried and none fits" if tried else ""
    if probes.by_rule(end).least_excess > 0:
        return f"{told}. From {end:,} on not even the live tensors fit{between}."
    return f"{told}, nor does {end:,}, the largest that may be asked for{between}."
