"""The largest value of a setting that still fits the device, with everything else fixed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, get_args

from calculator.common.deferred import Deferred
from calculator.common.errors import PlanError, Problem, refusal
from calculator.common.garbage import without_collections
from calculator.estimation.estimate import model_of
from calculator.estimation.positions import within_positions
from calculator.estimation.request import Request, parse_request
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.limit_search.bounds import Bound, SolveFor, bound, excess_of, outgrown, solved, without_length
from calculator.limit_search.fewest import fewest
from calculator.limit_search.limit import Limit, unknown
from calculator.limit_search.probes import ProbeResult, Probes
from calculator.limit_search.replays import Replays, search_of
from calculator.trainers import trainer_of


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitRequest:
    """A request for an estimate, and the setting whose limit is requested."""

    request: Request
    solve_for: SolveFor


def parse_limit(body: Any) -> LimitRequest:
    """Parse a limit's request from decoded JSON: an estimate's request and `solve_for`.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems: list[Problem] = []
    name: Any = body.get("solve_for")
    names = get_args(SolveFor)
    if name not in names:
        must = "is required, one of" if name is None else "must be one of"
        problems.append(Problem(loc="solve_for", msg=f"{must} {', '.join(names)}", input=name))
    request = None
    try:
        request = parse_request({key: value for key, value in body.items() if key != "solve_for"})
    except PlanError as error:
        problems += error.problems
    if problems or request is None:
        raise PlanError(*problems)
    return LimitRequest(request=request, solve_for=name)


@without_collections
def limit(limit_request: LimitRequest) -> Limit:
    """Answer a limit's request.

    Raises:
        PlanError: if no device is given, the method has no such setting, or the request itself is refused.
    """
    name = limit_request.solve_for
    _check(limit_request)
    if name == "count":
        return fewest(limit_request.request)
    setting = solved(limit_request.request, name).setting
    model = model_of(limit_request.request.model)
    without_length(limit_request.request, model, name)
    request = replace(within_positions(limit_request.request, model), length_given=True)
    search, most = search_of(request, name), int(setting.maximum or 0)
    unit = search.ruled.unit
    lowest = -(
        -max(int(setting.minimum or 0), trainer_of(request.training).smallest_size(name, request.training)) // unit
    )
    search.ruled.probe(lowest)
    upper = bound(request, model, name)
    most, highest = most // unit, upper.limit // unit
    if highest < lowest:
        above = search.point(lowest)
        return Limit(solve_for=name, bound=upper, at=None, above=above, guarantee="There is no value to try.")
    fits = search.fits(highest)
    answer = _at_bound(search, upper, highest, most) if fits else _within_memory(search, lowest, highest)
    return replace(answer, warnings=outgrown(request, model, answer.value) if name == "r" and answer.value else ())


def _check(limit_request: LimitRequest) -> None:
    device = limit_request.request.device
    if device.gpu is None and device.memory_bytes is None:
        raise refusal("device", "a limit needs a GPU: give device.gpu or device.memory_bytes")
    name, names = limit_request.solve_for, {"count", *(field.name for field in declared(Training))}
    if limit_request.request.accounting == "textbook" and name in names:
        why = "divides nothing" if name == "count" else "counts no activations"
        message = f"textbook accounting {why}, so every {name} needs the same: use exact"
        raise refusal("accounting", message, "textbook")


def _within_memory(search: Probes | Replays, lowest: int, highest: int) -> Limit:
    """Return the limit that memory sets. The upper bound does not fit.

    Required memory is not monotonic in the value, because fragmentation may shrink. The live tensors are monotonic:
    from some value on, not even they fit.
    """
    probes = search.ruled
    if probes.probe(lowest).least_excess > 0:
        return _no_limit(
            search, lowest, f"Not even the live tensors fit with {lowest * probes.unit:,}, the smallest value."
        )
    end = probes.first_without_room(lowest, highest)
    best = search.largest_below(lowest, end)
    guarantee = _guarantee(search, best, end)
    if best < lowest:
        return replace(_no_limit(search, lowest, guarantee), running=_running(search, best, end, lowest))
    above = search.point(best + 1)
    return Limit(
        solve_for=probes.name,
        bound=_memory(above),
        at=search.point(best),
        above=above,
        guarantee=guarantee,
        running=_running(search, best, end, lowest),
    )


def _running(search: Probes | Replays, best: int, end: int, lowest: int) -> Deferred[int | None]:
    if isinstance(search, Probes):
        return unknown()

    def largest() -> int | None:
        largest_value = search.largest_with_retries(best, end)
        return largest_value * search.ruled.unit if largest_value >= lowest else None

    return Deferred(largest)


def _no_limit(search: Probes | Replays, lowest: int, guarantee: str) -> Limit:
    above = search.point(lowest)
    return Limit(solve_for=search.ruled.name, bound=_memory(above), at=None, above=above, guarantee=guarantee)


def _at_bound(search: Probes | Replays, upper: Bound, value: int, maximum: int) -> Limit:
    probes = search.ruled
    try:
        above = search.point(value + 1) if value < maximum else None
    except PlanError:
        above = None
    return Limit(
        solve_for=probes.name,
        bound=upper,
        at=search.point(value),
        above=above,
        guarantee=f"{value * probes.unit:,} fits. The limit is not memory, so larger values were not searched.",
        running=unknown() if isinstance(search, Probes) else Deferred(lambda: value * probes.unit),
    )


def _memory(above: ProbeResult) -> Bound:
    fit, required = above.estimate.fit, above.estimate.memory.required_bytes
    assert fit is not None
    reason = f"{above.value:,} would require {excess_of(required, fit.usable_bytes, 'the GPU')}"
    return Bound(by="memory", limit=fit.usable_bytes, reason=reason)


def _guarantee(search: Probes | Replays, best: int, end: int) -> str:
    unit = search.ruled.unit
    last, after, without_room = best * unit, (best + 1) * unit, end * unit
    edge = f"{last:,} fits and {after:,} does not" if best in search.tried else f"{after:,} does not fit"
    tried = sum(best + 1 < value < end for value in search.tried)
    between = f"; between, {tried:,} values were tried and none fits" if tried else ""
    if search.ruled.probe(end).least_excess > 0:
        return f"{edge}. From {without_room:,} on, not even the live tensors fit{between}."
    return f"{edge}, nor does {without_room:,}, the largest possible value{between}."
