"""The limit on the CPU time of one answer, for every endpoint but sweeps, which stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.http.root_path import route_path
from calculator.common.budget import limited

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

_STREAMED = "/api/v1/sweep"


class Budgeted:
    """ASGI middleware that limits the CPU time of answers."""

    def __init__(self, app: ASGIApp, seconds: int) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or route_path(scope) == _STREAMED:
            await self.app(scope, receive, send)
            return
        with limited(self.seconds):
            await self.app(scope, receive, send)
