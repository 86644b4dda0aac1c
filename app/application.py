"""The FastAPI application: routes, static files, and error responses."""

from __future__ import annotations

import mimetypes
from http import HTTPStatus
from threading import Lock
from time import sleep
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.gzip import GZipMiddleware
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from app.api import ROUTERS
from app.api.openapi import document
from app.http.body_params import BODY
from app.http.middleware import OuterMiddleware
from app.http.over_budget import over_budget_response
from app.http.problems import INTERNAL_ERROR, MEANINGS, HTTPProblem, invalid_response, problem_response
from app.http.progress import NDJSON, StreamingMiddleware
from app.http.root_path import route_path
from app.pages import PAGES
from app.presentation.templates import error_page
from app.resources import STATIC, VERSION
from app.service.budgets import BudgetMiddleware
from app.service.direct_estimates import DirectEstimateMiddleware, ShortEstimateMiddleware
from app.service.endpoints import OPENAPI_PATHS, STREAMED
from app.service.metrics import MEDIA_TYPE, exposition
from app.service.settings import ServiceSettings
from calculator.common.budget import OverBudgetError
from calculator.common.errors import PlanError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.requests import Request
    from starlette.types import Scope

#: Python before 3.14 does not know this type unless the system lists it.
mimetypes.add_type("font/woff2", ".woff2")

#: Media types that are not compressed: images, and streamed rows, which compression would delay.
UNCOMPRESSED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, NDJSON)

#: Every router of the API and of the pages.
ALL_ROUTERS = (*ROUTERS, *(module.router for module in PAGES))

#: The seconds between two checks whether requests are being answered.
_PAUSE = 0.02

#: Threads may ask for the OpenAPI document at the same time; one builds it.
_OPENAPI_LOCK = Lock()


class Application(FastAPI):
    """FastAPI with the project's own OpenAPI document."""

    #: Whether a request waits for the OpenAPI document, or has read it.
    openapi_is_read = False

    def openapi(self) -> dict[str, Any]:
        """Return the document, built once."""
        self.openapi_is_read = True
        return self._built(lambda: None)

    def build_openapi(self, is_busy: Callable[[], bool]) -> None:
        """Build the document before its first reader, and wait while other requests are answered."""

        def pause() -> None:
            while is_busy() and not self.openapi_is_read:
                sleep(_PAUSE)

        self._built(pause)

    def _built(self, pause: Callable[[], None]) -> dict[str, Any]:
        with _OPENAPI_LOCK:
            if self.openapi_schema is None:
                self.openapi_schema = document(self, pause)
            return self.openapi_schema


class CachedStaticFiles(StaticFiles):
    """Static files. Browsers may cache a file forever if its URL contains the hash of its content."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return the file with a Cache-Control header."""
        response = await super().get_response(path, scope)
        cache = "public, max-age=31536000, immutable" if b"v=" in scope["query_string"] else "no-cache"
        response.headers["Cache-Control"] = cache
        return response


def application() -> Application:
    """Return a new application."""
    app = Application(
        title="Headroom",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.add_middleware(DirectEstimateMiddleware)
    settings = ServiceSettings.from_environment()
    app.add_middleware(
        BudgetMiddleware,
        seconds=settings.most_seconds,
        plain=settings.most_plain_seconds,
        streamed=settings.most_streamed_seconds,
    )
    app.state.whole_page_seconds = settings.whole_page_milliseconds / 1000
    app.add_middleware(StreamingMiddleware, paths=STREAMED)
    app.add_middleware(GZipMiddleware, minimum_size=1000, exclude_content_types=UNCOMPRESSED)
    app.add_middleware(ShortEstimateMiddleware)
    app.add_middleware(OuterMiddleware, error_response=_internal_error)
    for router in ALL_ROUTERS:
        app.include_router(router)
    for path in OPENAPI_PATHS:
        app.add_route(path, _openapi)
    app.add_route("/metrics", _metrics)
    app.mount("/static", CachedStaticFiles(directory=STATIC))
    app.add_exception_handler(PlanError, _plan_error)
    app.add_exception_handler(OverBudgetError, _over_budget)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    app.add_exception_handler(HTTPProblem, _http_problem)
    app.add_exception_handler(HTTPException, _http_exception)
    return app


def _openapi(request: Request) -> Response:
    document = request.app.openapi()
    root = request.scope.get("root_path", "")
    return JSONResponse({**document, "servers": [{"url": root}]} if root else document)


def _metrics(_: Request) -> Response:
    return Response(exposition(), media_type=MEDIA_TYPE)


async def _plan_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PlanError)
    return invalid_response(error.problems)


async def _invalid_parameters(_: Request, error: Exception) -> Response:
    """Return the problem document of parameters that FastAPI refuses: they are in the query or in the path."""
    assert isinstance(error, RequestValidationError)
    return invalid_response(
        [
            Problem(loc=".".join(map(str, invalid["loc"][1:])), msg=invalid["msg"], input=invalid["input"])
            for invalid in error.errors()
        ]
    )


async def _over_budget(request: Request, error: Exception) -> Response:
    assert isinstance(error, OverBudgetError)
    if _is_for_programs(request):
        return over_budget_response(error, request.scope.get(BODY))
    return _error_response(request, 422, str(error), {})


async def _http_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPProblem)
    return _error_response(request, error.status, error.detail, dict(error.headers or {}))


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    detail = MEANINGS[error.status_code][1] if error.status_code in MEANINGS else error.detail
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = allowed_methods(request)
    return _error_response(request, error.status_code, detail, headers)


def _internal_error(request: Request) -> Response:
    return _error_response(request, 500, INTERNAL_ERROR, {})


def _error_response(request: Request, status: int, detail: str, headers: dict[str, str]) -> Response:
    """Return a problem document to programs, and a page to browsers."""
    if _is_for_programs(request):
        return problem_response(status, detail, (), headers)
    response = error_page(status, HTTPStatus(status).phrase, detail)
    response.headers.update(headers)
    return response


def _is_for_programs(request: Request) -> bool:
    path = route_path(request.scope)
    return path.startswith("/api/") or path.endswith(".json") or path in ("/healthz", "/readyz", "/metrics")


def allowed_methods(request: Request) -> str:
    """Return every method that the path supports, for the Allow header."""
    methods: set[str] = set()
    for route in (route for router in ALL_ROUTERS for route in router.routes):
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            methods |= getattr(route, "methods", set())
    methods = methods or {"GET"}
    return ", ".join(sorted(methods | ({"HEAD"} if "GET" in methods else set())))
