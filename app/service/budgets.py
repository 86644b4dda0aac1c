"""The limits on the CPU time of one answer: streamed, in parts or whole."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.http.progress import NDJSON, STREAMED
from app.http.root_path import route_path
from app.service import endpoints
from app.service.endpoints import OPENAPI_PATHS
from calculator.common.budget import limited

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

#: The OpenAPI document is computed once, and before its first reader.
_UNLIMITED = frozenset({"/api/v1/sweep", *OPENAPI_PATHS})


class BudgetMiddleware:
    """ASGI middleware that limits the CPU time of answers.

    `seconds` is the limit of pages in parts, `streamed` that of streamed answers, and `plain` that of all others.
    """

    def __init__(self, app: ASGIApp, seconds: int, plain: int, streamed: int) -> None:
        self.app, self.seconds, self.plain, self.streamed = app, seconds, plain, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or route_path(scope) in _UNLIMITED:
            await self.app(scope, receive, send)
            return
        with limited(*self._limit(scope)):
            await self.app(scope, receive, send)

    def _limit(self, scope: Scope) -> tuple[int, str]:
        """Return the seconds of a request, and how to get more."""
        if STREAMED in scope:
            return self.streamed, ""
        if route_path(scope) in endpoints.IN_PARTS:
            return self.seconds, ""
        if self.streamed <= self.plain:
            return self.plain, ""
        is_streamed = scope["method"] == "POST" and route_path(scope) in endpoints.STREAMED
        way = f"accept {NDJSON}" if is_streamed else f"request it of the API and accept {NDJSON}"
        return self.plain, f", or {way}: a streamed answer may take {self.streamed:g} seconds"
