"""A sweep: one request, lists of values for some of its fields, and an answer for every combination in order."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from math import prod
from typing import TYPE_CHECKING, Any

from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimation.estimate import estimate
from calculator.estimation.request import MAX_DEPTH, known_fields, parse_request
from calculator.estimation.series import SeriesCache
from calculator.inputs.device import Device
from calculator.inputs.settings import declared
from calculator.inputs.stack import StackVersions
from calculator.inputs.training import Training
from calculator.inputs.unknown_fields import unknown_field
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from calculator.estimation.answer import Estimate

#: The maximum number of points of one API request.
MAX_POINTS = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Sweep:
    """A request as decoded JSON, and the values for dotted paths into it.

    The values of the last path change fastest. Reserved memory is by the rule, unless the request or the grid sets it.
    """

    request: Mapping[str, Any]
    grid: Mapping[str, tuple[Any, ...]]

    @property
    def count(self) -> int:
        """The number of points of the grid."""
        return prod(len(values) for values in self.grid.values())

    def points(self, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Any]]:
        """Yield the values of each point by path.

        `start` and `stop` select a part of the points. `stop` is excluded.
        """
        return (self._point(index) for index in range(self.count)[start:stop])

    def _point(self, index: int) -> dict[str, Any]:
        """Return the values of one point, without computing those before it."""
        values = []
        for listed in reversed(tuple(self.grid.values())):
            index, place = divmod(index, len(listed))
            values.append(listed[place])
        return dict(zip(self.grid, reversed(values), strict=True))

    def body(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request of a point."""
        body = {"reserved": "rule", **self.request}
        for path, value in point.items():
            body = _with_value(body, path.split("."), value)
        return body


@dataclass(frozen=True, slots=True, kw_only=True)
class Swept:
    """A point of the grid: its values, and its estimate or the problems of its request."""

    point: Mapping[str, Any]
    estimate: Estimate | None
    problems: tuple[Problem, ...] = ()


def parse_sweep(body: Any, *, most: int | None = MAX_POINTS) -> Sweep:
    """Parse a sweep's request from decoded JSON: `request`, an estimate's request, and `grid`, lists by dotted path.

    Problems that every point has are refused here. Problems of single points are part of their answers.

    Raises:
        PlanError: with every problem found, each at its dotted path, and if the grid has more points than `most`.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems = [
        Problem(loc=key, msg=unknown_field(key, ("request", "grid")), input=body[key])
        for key in body
        if key not in ("request", "grid")
    ]
    request: Any = body.get("request")
    grid: Any = body.get("grid")
    if not isinstance(request, dict):
        problems.append(Problem(loc="request", msg="must be an estimate's request, an object", input=request))
    if not isinstance(grid, dict) or not grid:
        message = 'must be an object of lists, such as {"method.r": [8, 16]}'
        problems.append(Problem(loc="grid", msg=message, input=grid))
    if problems:
        raise PlanError(*problems)
    return _checked(Sweep(request=request, grid=_lists(grid, request)), most)


def answers(sweep: Sweep, start: int = 0, stop: int | None = None) -> Iterator[Swept]:
    """Yield the answers to the points in order, each computed when it is read. Consecutive points share work.

    `start` and `stop` select a part of the points.
    """
    series = SeriesCache()
    for point in sweep.points(start, stop):
        try:
            yield Swept(point=point, estimate=estimate(parse_request(sweep.body(point)), series))
        except PlanError as error:
            yield Swept(point=point, estimate=None, problems=error.problems)


def _lists(grid: dict[str, Any], request: dict[str, Any]) -> dict[str, tuple[Any, ...]]:
    problems = [
        Problem(loc=f"grid.{path}", msg=message, input=values)
        for path, values in grid.items()
        if (message := _list_problem(path, request, grid) or _unlisted(values))
    ]
    problems = problems or [*_no_objects(grid, request)]
    if problems:
        raise PlanError(*problems)
    return {path: tuple(values) for path, values in grid.items()}


def _list_problem(path: str, request: dict[str, Any], grid: Mapping[str, Any]) -> str | None:
    """Return the reason why a path can't have a list, or None."""
    parts = path.split(".")
    if len(parts) > MAX_DEPTH:
        return f"leads through {len(parts):,} objects; a request is at most {MAX_DEPTH} levels deep"
    if not all(parts) or not _is_field(path, request):
        return "is not a field of a request, such as training.sequence_length or method.r"
    whole = next((above for above in _parent_paths(parts) if above in grid), None)
    return f"is part of {whole}, which has a list too: leave one of them out" if whole else None


def _unlisted(values: Any) -> str | None:
    return None if isinstance(values, list) and values else "must be a list of one value or more"


def _no_objects(paths: Iterable[str], request: dict[str, Any]) -> tuple[Problem, ...]:
    """Return values of the request that must be objects because a path leads into them."""
    problem_by_path: dict[str, Problem] = {}
    for path in paths:
        inner: Any = request
        for above in _parent_paths(path.split(".")):
            inner = inner.get(above.rpartition(".")[2], {})
            if not isinstance(inner, dict):
                message = f"must be an object, because {path} varies in it"
                problem_by_path.setdefault(above, Problem(loc=f"request.{above}", msg=message, input=inner))
                break
    return tuple(problem_by_path.values())


def _parent_paths(parts: list[str]) -> Iterator[str]:
    """Return the paths of the objects that contain a value, the outermost first."""
    return accumulate(parts[:-1], "{}.{}".format)


def _is_field(path: str, request: dict[str, Any]) -> bool:
    part, _, name = path.partition(".")
    if not name:
        return part in known_fields()
    if part == "model":
        return name.startswith("config.") and isinstance(request.get("model"), dict)
    kinds: dict[str, tuple[type, ...]] = {
        "method": tuple(METHODS.values()),
        "training": (Training,),
        "device": (Device,),
        "stack": (StackVersions,),
    }
    return path == "method.name" or any(_is_setting(kind, name) for kind in kinds.get(part, ()))


def _is_setting(kind: type, path: str) -> bool:
    """Return whether a dotted path leads to a setting of a dataclass of settings."""
    first, _, rest = path.partition(".")
    declared_field = next((field for field in declared(kind) if field.name == first), None)
    if declared_field is None or not rest:
        return declared_field is not None
    return declared_field.nested is not None and _is_setting(declared_field.nested, rest)


def _checked(sweep: Sweep, most: int | None) -> Sweep:
    """Return the sweep, if it is not too large and the fixed parts of its request are valid."""
    if most is not None and sweep.count > most:
        message = f"has {sweep.count:,} points; a request may have {most:,}: send it in parts, with shorter lists"
        raise refusal("grid", message, {path: len(values) for path, values in sweep.grid.items()})
    varied = {path.split(".")[0] for path in sweep.grid}
    try:
        parse_request(sweep.body(next(sweep.points())))
    except PlanError as error:
        wrong = [problem for problem in error.problems if problem.loc.split(".")[0] not in varied]
        if wrong:
            raise PlanError(*(Problem(loc=f"request.{p.loc}", msg=p.msg, input=p.input) for p in wrong)) from error
    return sweep


def _with_value(body: Mapping[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """Return the object with a value at a path. Missing objects on the path are created."""
    first, *rest = path
    return {**body, first: _with_value(body.get(first, {}), rest, value) if rest else value}
