"""The estimate of a request, by the calculator or by a trace."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from app.engines import installed
from app.engines.process import AbandonedError
from app.engines.tracer import AT_ONCE, WAITING, BusyError, Tracer
from app.http.problems import HTTPProblem
from calculator.common.errors import PlanError, refusal
from calculator.estimation.estimate import estimate
from calculator.estimation.traced.answer import traced_estimate
from calculator.estimation.traced.check import check_traced, config_of, is_modeled, is_traced

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """The client that waits for an answer.

    Attributes:
        gone: Returns whether the client has disconnected.
        progress: Is called with a description of the running stage.
    """

    gone: Callable[[], bool] = lambda: False
    progress: Callable[[str], None] = lambda _: None


@cache
def tracer() -> Tracer:
    """Return the tracer of this process."""
    return Tracer()


def answered(request: Request, client: Client | None = None, *, whole: bool = False) -> Estimate:
    """Answer a single request.

    `whole` is passed to the calculator, and makes it faster if the timeline is read.

    Raises:
        PlanError: if the request is refused.
        HTTPProblem: 503, if too many traces wait, or the client has gone.
    """
    if needs_trace(request):
        return _traced(request, client or Client())
    try:
        return estimate(request, whole=whole)
    except PlanError as error:
        raise with_way_out(error, request) from error


def needs_trace(request: Request) -> bool:
    """Return whether a request is answered by a trace."""
    return request.engine == "traced" or (is_traced(request) and _can_trace(request))


def _can_trace(request: Request) -> bool:
    """Return whether the installed libraries know the type of a request's model."""
    config = config_of(request.model) or {}
    return not installed.missing() and installed.knows(str(config.get("model_type")))


def _traced(request: Request, client: Client) -> Estimate:
    check_traced(request)
    missing = installed.missing()
    if missing:
        message = f"a trace needs {', '.join(missing)}, not installed here: {installed.INSTALL}"
        raise refusal("engine", message, request.engine)
    try:
        return traced_estimate(request, tracer().trace(request, client.gone, client.progress))
    except BusyError as error:
        detail = f"{AT_ONCE} traces run and {WAITING} wait already: try again in a minute"
        raise HTTPProblem(503, detail, {"Retry-After": "60"}) from error
    except AbandonedError as error:
        raise HTTPProblem(503, "the client closed the connection, and the trace was ended") from error


def with_way_out(error: PlanError, request: Request) -> PlanError:
    """Return a refusal of a model that is not modeled, with the way out."""
    if request.accounting != "exact" or is_modeled(request.model):
        return error
    if not installed.missing() and not _can_trace(request):
        return error
    if installed.missing():
        way_out = f"a trace of the real modules answers it if these are installed: {installed.INSTALL}"
    else:
        way_out = "set engine to auto or traced for a trace of the real modules"
    first, *others = error.problems
    return PlanError(replace(first, msg=f"{first.msg}. Or {way_out}"), *others)
