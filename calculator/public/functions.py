"""`estimate`, `compare`, `limits` and `plan`: the endpoints of the JSON API of the same names, as Python functions.

A part of a request is an instance of its settings class or a dictionary with its JSON content. `estimate(**request)`
answers the request in a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

from calculator.common.errors import refusal
from calculator.common.names import ProblemType, TaskName  # noqa: TC001  tests evaluate annotations
from calculator.comparison.methods import compare as _compare
from calculator.comparison.methods import parse_comparison
from calculator.estimation.estimate import estimate as _estimate
from calculator.estimation.request import EngineChoice, ReservedBy, parse_request
from calculator.limit_search.limits import limit, parse_limit
from calculator.planning.plan import plan as _plan
from calculator.planning.request import parse_plan
from calculator.public.body import body

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Unpack

    from calculator.comparison.methods import ComparisonRow
    from calculator.estimation.answer import Estimate
    from calculator.inputs.device import Device
    from calculator.inputs.stack import StackVersions
    from calculator.inputs.training import Training
    from calculator.limit_search.bounds import SolveFor
    from calculator.limit_search.limit import Limit
    from calculator.methods import Method
    from calculator.planning.needs import Needs
    from calculator.planning.plan import Plan

    #: A catalogue id, or `{"config": {...}}` with a `config.json`.
    Model = str | Mapping[str, Any]
    #: A decoded JSON object.
    Json = Mapping[str, Any]


#: Why a trace is refused: it runs in a process of the web application.
NO_TRACES = (
    "functions compute with the calculator: for a trace, use `headroom estimate --engine traced` or the JSON API"
)


class Options(TypedDict, total=False):
    """The options of a request outside its objects: those of `calculator.estimation.request.Choices`."""

    reserved: ReservedBy
    accounting: Literal["exact", "textbook"]
    task: TaskName
    num_labels: int
    problem_type: ProblemType | None
    engine: EngineChoice


def estimate(
    model: Model,
    method: Method | Json,
    training: Training | Json | None = None,
    device: Device | Json | None = None,
    stack: StackVersions | Json | None = None,
    **options: Unpack[Options],
) -> Estimate:
    """Return the memory of one training run, and whether it fits its device.

    Raises:
        PlanError: if the request is invalid, or the libraries refuse the combination; `problems` lists why.
    """
    parts = body(model=model, method=method, training=training, device=device, stack=stack)
    request = parse_request({**parts, **options})
    if request.engine == "traced":
        raise refusal("engine", NO_TRACES, request.engine)
    return _estimate(request)


def compare(
    model: Model,
    methods: Sequence[Method | Json] | None = None,
    training: Training | Json | None = None,
    device: Device | Json | None = None,
    stack: StackVersions | Json | None = None,
    **options: Unpack[Options],
) -> tuple[ComparisonRow, ...]:
    """Return one row for each method. Without `methods`, the methods are those with documented quality.

    Raises:
        PlanError: if the request is invalid, or every method is refused.
    """
    parts = body(model=model, methods=methods, training=training, device=device, stack=stack)
    return _compare(parse_comparison({**parts, **options}))


def limits(
    solve_for: SolveFor,
    model: Model,
    method: Method | Json,
    training: Training | Json | None = None,
    device: Device | Json | None = None,
    stack: StackVersions | Json | None = None,
    **options: Unpack[Options],
) -> Limit:
    """Return the largest value of a setting with which the run fits. For `count`, return the fewest GPUs.

    Raises:
        PlanError: if the request is invalid, has no device, or the libraries refuse the combination.
    """
    parts = body(solve_for=solve_for, model=model, method=method, training=training, device=device, stack=stack)
    return limit(parse_limit({**parts, **options}))


def plan(
    model: Model | None = None,
    device: Device | Json | None = None,
    needs: Needs | Json | None = None,
    training: Training | Json | None = None,
    stack: StackVersions | Json | None = None,
    *,
    models: Sequence[Model] | None = None,
    devices: Sequence[Device | Json] | None = None,
    reserved: ReservedBy = "replay",
) -> Plan:
    """Return the configurations that fit, for each model on each device, best first.

    Raises:
        PlanError: if the request is invalid, the needs contradict each other, or every method is refused.
    """
    parts = body(
        model=model, models=models, device=device, devices=devices, needs=needs, training=training, stack=stack
    )
    return _plan(parse_plan({**parts, "reserved": reserved}))
