"""`POST /api/v1/estimate` of the calculator's engine, without FastAPI's routes, which take as long as an estimate.

The answer equals that of `app.api.estimate`, which answers all other requests: other media types, and traces.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from app.api.estimate import answer_text_of
from app.api.responses import json_response
from app.engines.engine import needs_trace
from app.http.bodies import decode_json
from app.http.over_budget import over_budget_response
from app.http.problems import HTTPProblem, invalid_response, problem_response
from app.http.progress import NDJSON
from app.http.root_path import route_path
from app.service.bodies import buffered
from calculator.common.budget import OverBudgetError
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from calculator.estimation.request import Request

PATH = "/api/v1/estimate"

#: The number of threads that compute. Only one computes at a time, and more threads make all of them wait for turns.
THREADS = 4


#: The key of a scope for the request of its body.
PARSED = "headroom.estimate"


class ShortEstimateMiddleware:
    """ASGI middleware that answers short requests at once, where the answer is neither compressed nor streamed.

    It is outside those that compress, stream and limit. All other requests and every refusal are theirs.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or route_path(scope) != PATH or not _is_json_post(scope) or not _is_plain(scope):
            await self.app(scope, receive, send)
            return
        body, receive = await buffered(receive)
        request = _parsed(body) if body is not None else None
        text = None
        if request is not None and not isinstance(request, _REFUSED):
            scope = {**scope, PARSED: request}
            text = _short_text(request)
        if text is None:
            await self.app(scope, receive, send)
            return
        headers = [(b"content-length", b"%d" % len(text)), *_HEADERS]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})


_HEADERS = ((b"content-type", b"application/json"), (b"vary", b"Accept-Encoding"))


class DirectEstimateMiddleware:
    """ASGI middleware that answers the endpoint's usual requests."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="estimate")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or route_path(scope) != PATH or not _is_json_post(scope):
            await self.app(scope, receive, send)
            return
        body, receive = await buffered(receive)
        request = scope.get(PARSED) or (_parsed(body) if body is not None else None)
        if isinstance(request, _REFUSED):
            await _refusal(request)(scope, receive, send)
        elif request is None or needs_trace(request):
            await self.app(scope, receive, send)
        elif _is_short(request):
            await _answer(request, body)(scope, receive, send)
        else:
            answer = partial(copy_context().run, _answer, request, body)
            response = await asyncio.get_running_loop().run_in_executor(self._threads, answer)
            await response(scope, receive, send)


_REFUSED = (PlanError, HTTPProblem)


def _is_json_post(scope: Scope) -> bool:
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    return scope["method"] == "POST" and kind.split(b";")[0].strip().lower() == b"application/json"


def _is_plain(scope: Scope) -> bool:
    """Return whether a client accepts no compression and no stream."""
    headers = dict(scope["headers"])
    coded, accepted = headers.get(b"accept-encoding", b""), headers.get(b"accept", b"")
    return b"gzip" not in coded and NDJSON.encode() not in accepted.lower()


def _short_text(request: Request) -> bytes | None:
    """Return the answer to a request; None if it may take longer, or is refused."""
    if needs_trace(request) or not _is_short(request):
        return None
    try:
        return answer_text_of(request)
    except _REFUSED:
        return None


def _is_short(request: Request) -> bool:
    """Return whether an answer takes a few milliseconds, less than passing it to a thread and back under load.

    Those are models of the catalogue on one GPU by the rule: of 1,780 that were answered for the first time, with and
    without a trainer, the slowest took 0.25 s of CPU time.
    """
    return request.model.id is not None and request.reserved == "rule" and request.device.count == 1


def _parsed(body: bytes) -> Request | PlanError | HTTPProblem:
    try:
        return parse_request(decode_json(body))
    except _REFUSED as error:
        return error


def _answer(request: Request, body: bytes | None) -> Response:
    try:
        return json_response(answer_text_of(request))
    except _REFUSED as error:
        return _refusal(error)
    except OverBudgetError as error:
        return over_budget_response(error, decode_json(body or b"null"))


def _refusal(error: Any) -> Response:
    if isinstance(error, PlanError):
        return invalid_response(error.problems)
    return problem_response(error.status, error.detail, (), error.headers)
