"""The application: routes, static files, and an answer for every error."""

from __future__ import annotations

import mimetypes
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import DEFAULT_EXCLUDED_CONTENT_TYPES
from starlette.responses import JSONResponse
from starlette.routing import Match
from starlette.staticfiles import StaticFiles

from app.api import ROUTERS
from app.api.answers.sweep import MEDIA_TYPES
from app.api.openapi import document
from app.http.middleware import Guard
from app.http.problems import MEANINGS, Refusal, invalid, problem
from app.http.version import VERSION
from app.pages.difference import routes as difference_routes
from app.pages.estimate import routes as estimate_routes
from app.pages.files import routes as files_routes
from app.pages.inference import routes as inference_routes
from app.pages.lesson import routes as lesson_routes
from app.pages.limits import routes as limits_routes
from app.pages.plan import routes as plan_routes
from app.presentation.templates import STATIC
from calculator.common.errors import PlanError

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import Scope

#: What is not compressed: images, and rows that should arrive when they are found, not when a block of them is full.
UNCOMPRESSED = (*DEFAULT_EXCLUDED_CONTENT_TYPES, MEDIA_TYPES["ndjson"])

#: Python before 3.14 knows this type only where the system lists it.
mimetypes.add_type("font/woff2", ".woff2")

#: Every router, of the API and of the pages.
EVERY = (
    *ROUTERS,
    *(
        module.router
        for module in (
            estimate_routes,
            plan_routes,
            files_routes,
            limits_routes,
            difference_routes,
            inference_routes,
            lesson_routes,
        )
    ),
)

#: Held while the document is made, which threads may ask for at the same time.
_MAKING = Lock()


class Application(FastAPI):
    """FastAPI with the project's own OpenAPI document."""

    def openapi(self) -> dict[str, Any]:
        """The document, made once."""
        with _MAKING:
            if self.openapi_schema is None:
                self.openapi_schema = document(self)
            return self.openapi_schema


class Files(StaticFiles):
    """Static files; one asked for with its content's mark may be kept for good."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        """The file, with how long it may be kept."""
        response = await super().get_response(path, scope)
        kept = "public, max-age=31536000, immutable" if b"v=" in scope["query_string"] else "no-cache"
        response.headers["Cache-Control"] = kept
        return response


def application() -> FastAPI:
    """A new application."""
    app = Application(
        title="Headroom",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False, "auto_configure": False},
    )
    app.add_middleware(GZipMiddleware, minimum_size=1000, exclude_content_types=UNCOMPRESSED)
    app.add_middleware(Guard, fault=_fault)
    for router in EVERY:
        app.include_router(router)
    app.add_route("/api/v1/openapi.json", _document)
    app.mount("/static", Files(directory=STATIC))
    app.add_exception_handler(PlanError, _plan_error)
    app.add_exception_handler(Refusal, _refusal)
    app.add_exception_handler(HTTPException, _http_error)
    return app


def _document(request: Request) -> Response:
    return JSONResponse(request.app.openapi())


async def _plan_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, PlanError)
    return invalid(error.problems)


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _told(request, error.status, error.detail, dict(error.headers or {}))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    detail = MEANINGS[error.status_code][1] if error.status_code in MEANINGS else error.detail
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        headers["Allow"] = allowed(request)
    return _told(request, error.status_code, detail, headers)


def _fault(request: Request) -> Response:
    return _told(request, 500, "the program met a fault of its own; its log describes it", {})


def _told(request: Request, status: int, detail: str, headers: dict[str, str]) -> Response:
    """A problem document to programs, a page to people."""
    path = request.url.path
    if path.startswith("/api/") or path.endswith(".json") or path == "/healthz":
        return problem(status, detail, (), headers)
    response = estimate_routes.error_page(status, HTTPStatus(status).phrase, detail)
    response.headers.update(headers)
    return response


def allowed(request: Request) -> str:
    """Every method that the path answers."""
    found: set[str] = set()
    for route in (route for router in EVERY for route in router.routes):
        match, _ = route.matches(request.scope)
        if match is not Match.NONE:
            found |= getattr(route, "methods", set())
    found = found or {"GET"}
    return ", ".join(sorted(found | ({"HEAD"} if "GET" in found else set())))
