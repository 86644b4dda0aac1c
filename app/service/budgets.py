"""The limits on the CPU time of one answer, streamed or not, for every endpoint but sweeps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.http.progress import NDJSON, STREAMED
from app.http.root_path import route_path
from app.service import endpoints
from calculator.common.budget import limited

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_SWEEP = "/api/v1/sweep"


class Budgeted:
    """ASGI middleware that limits the CPU time of answers: `plain` is the limit of those that could be streamed."""

    def __init__(self, app: ASGIApp, seconds: int, plain: int, streamed: int) -> None:
        self.app, self.seconds, self.plain, self.streamed = app, seconds, plain, streamed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or route_path(scope) == _SWEEP:
            await self.app(scope, receive, send)
            return
        with limited(*self._limit(scope)):
            await self.app(scope, receive, send)

    def _limit(self, scope: Scope) -> tuple[int, str]:
        """Return the seconds of a request, and the way to more."""
        if STREAMED in scope:
            return self.streamed, ""
        if scope["method"] != "POST" or route_path(scope) not in endpoints.STREAMED:
            return self.seconds, ""
        if self.streamed <= self.plain:
            return self.plain, ""
        return self.plain, f", or accept {NDJSON}: a streamed answer may take {self.streamed:g} seconds"
