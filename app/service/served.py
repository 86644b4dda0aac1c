"""The application of a server process, inside the service's middleware."""

from __future__ import annotations

import os
import sys
from threading import Thread
from typing import TYPE_CHECKING

from app.api.estimate import answer
from app.application import ALL_ROUTERS, application
from app.presentation.templates import compile_pages
from app.service import access_log
from app.service.admission import AdmissionMiddleware
from app.service.answer_cache import AnswerCache, CacheMiddleware
from app.service.endpoints import OPENAPI_PATHS, Endpoints
from app.service.forwarding import ForwardingMiddleware
from app.service.garbage import collect_between_answers
from app.service.observation import ObservationMiddleware
from app.service.settings import ServiceSettings
from app.service.validators import ETagMiddleware, installed

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp

    from app.application import Application

#: Seconds for which a thread computes before another gets its turn. Python's 5 ms are the time of several estimates.
_TURN = 0.001

#: How much lower the priority of long requests is, as `nice` counts.
_NICE = 10

#: When to try again, in seconds: after short requests, and after long ones.
_SHORT_WAIT, _LONG_WAIT = 1, 5

#: Requests that are answered once before the first one arrives, so that every module is imported.
_FIRST = {"model": "meta-llama/Llama-3.2-1B", "method": {"name": "lora"}, "reserved": "rule"}


def served() -> ASGIApp:
    """Return the application of a server process, with the settings of its environment."""
    settings = ServiceSettings.from_environment()
    if settings.access_log:
        access_log.write_to_stdout()
    return serviced(_ready(), settings)


def serviced(app: ASGIApp, settings: ServiceSettings) -> ASGIApp:
    """Return an application inside the service's middleware."""
    if settings.long_socket:
        app = ForwardingMiddleware(app, settings.long_socket)
    app = AdmissionMiddleware(app, settings.most_at_once, _SHORT_WAIT)
    if settings.cache_bytes:
        app = CacheMiddleware(app, AnswerCache(settings.cache_bytes))
    return ObservationMiddleware(ETagMiddleware(app), endpoints(), logged=settings.access_log)


def long_served() -> ASGIApp:
    """Return the application of a process that answers long requests, at a lower priority.

    The process that forwards a request also records it. The OpenAPI document, whose examples take seconds, is built at
    once rather than for its first reader, but not while a request is answered.
    """
    os.nice(_NICE)
    app = _ready()
    admission = AdmissionMiddleware(app, ServiceSettings.from_environment().most_long_at_once, _LONG_WAIT)
    Thread(target=_prepare, args=(app, lambda: admission.present > 0), name="openapi", daemon=True).start()
    return admission


def _prepare(app: Application, is_busy: Callable[[], bool]) -> None:
    """Compile the templates of the pages, and build the OpenAPI document."""
    compile_pages()
    app.build_openapi(is_busy)


def endpoints() -> Endpoints:
    """Return the endpoints of the application."""
    paths = [str(getattr(route, "path", "")) for router in ALL_ROUTERS for route in router.routes]
    return Endpoints.from_paths((*paths, *OPENAPI_PATHS))


def _ready() -> Application:
    """Return the application, warmed up, with a garbage collector that rarely runs."""
    app = application()
    answer(_FIRST)
    installed()
    sys.setswitchinterval(_TURN)
    collect_between_answers()
    return app
