"""The limit of requests that are answered or wait at once. Others get 503 with the time to try again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.http.middleware import HEADERS
from app.http.problems import problem_response
from app.service import metrics
from app.service.endpoints import ALWAYS
from app.service.garbage import collect_if_due
from app.service.observation import ENDPOINT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class AdmissionMiddleware:
    """ASGI middleware that refuses requests while `most` others are answered or wait."""

    def __init__(self, app: ASGIApp, most: int, retry_after: int) -> None:
        self.app, self.most, self.retry_after = app, most, retry_after
        self.present = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        endpoint = scope.get(ENDPOINT, "other")
        if scope["type"] != "http" or endpoint in ALWAYS:
            await self.app(scope, receive, send)
            return
        if self.present >= self.most:
            metrics.REFUSED.labels(endpoint).inc()
            await self._refusal()(scope, receive, send)
            return
        self.present += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self.present -= 1
            collect_if_due(idle=not self.present)

    def _refusal(self) -> ASGIApp:
        wait = "a second" if self.retry_after == 1 else f"{self.retry_after} seconds"
        detail = (
            f"{self.most:,} requests are being answered or wait already, the limit of this process: try again in {wait}"
        )
        return problem_response(503, detail, (), {**HEADERS, "Retry-After": str(self.retry_after)})
