"""The middleware that counts requests, times them and writes the access log."""

from __future__ import annotations

from time import perf_counter
from typing import TYPE_CHECKING

from app.http.root_path import route_path
from app.service import access_log, metrics

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from app.service.endpoints import Endpoints

#: The keys of a request's scope for its endpoint, and for the result of the cache lookup.
ENDPOINT, CACHE = "headroom.endpoint", "headroom.cache"


#: The status of a request whose client left before the response began, as nginx records it.
LEFT = 499


class ObservationMiddleware:
    """ASGI middleware that names the endpoint of every request in its scope, and records the request."""

    def __init__(self, app: ASGIApp, endpoints: Endpoints, *, logged: bool) -> None:
        self.app, self.endpoints, self.logged = app, endpoints, logged

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request and record it, also if it fails."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        status, size = LEFT, 0
        endpoint = scope[ENDPOINT] = self.endpoints.name(route_path(scope))
        scope[CACHE] = None

        async def counted(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                size += len(message.get("body", b""))
            await send(message)

        metrics.IN_FLIGHT.inc()
        try:
            await self.app(scope, receive, counted)
        except Exception:
            status = 500 if status == LEFT else status
            raise
        finally:
            metrics.IN_FLIGHT.dec()
            self._record(scope, endpoint, status, size, perf_counter() - started)

    def _record(self, scope: Scope, endpoint: str, status: int, size: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in ("GET", "HEAD", "POST") else "other"
        metrics.REQUESTS.labels(endpoint, method, str(status)).inc()
        metrics.DURATIONS.labels(endpoint).observe(seconds)
        if self.logged:
            client = scope["client"][0] if scope.get("client") else None
            access_log.log.info(
                access_log.line(
                    method=scope["method"],
                    path=scope["path"],
                    status=status,
                    seconds=seconds,
                    size=size,
                    client=client,
                    cache=scope[CACHE],
                )
            )
