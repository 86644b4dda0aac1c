"""The application's outermost middleware: security headers, HEAD requests, a response to every unexpected error."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.requests import Request

from app.http.root_path import ROOT_PATH, from_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("headroom")

#: Plotly adds an empty style element and draws with data and blob images. Everything else is blocked.
_EMPTY_STYLE = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        f"style-src 'self' {_EMPTY_STYLE}",
        "img-src 'self' data: blob:",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

#: The same as a server sends them.
_ENCODED = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
_NAMES = frozenset(name for name, _ in _ENCODED)


def _with_own(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Return a response's headers with the security headers, and with redirects below the root path."""
    kept = [
        (name, from_root(value.decode("latin-1")).encode("latin-1") if name == b"location" else value)
        for name, value in headers
        if name not in _NAMES
    ]
    return kept + _ENCODED


class OuterMiddleware:
    """ASGI middleware that adds security headers, answers HEAD as GET without a body, and catches exceptions.

    Addresses of this site in redirects, pages and problem documents start with the request's root path.

    `error_response` makes the response to a request whose handler raised.
    """

    def __init__(self, app: ASGIApp, error_response: Callable[[Request], Response]) -> None:
        self.app = app
        self.error_response = error_response

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the application, and respond with an error if it raises."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        head = scope["method"] == "HEAD"
        started = False
        ROOT_PATH.set(scope.get("root_path", ""))

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = _with_own(message.get("headers", ()))
            elif head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self.app({**scope, "method": "GET"} if head else scope, receive, send_with_headers)
        except Exception:
            log.exception("unhandled exception in %s %s", scope["method"], scope["path"])
            if started:
                raise
            await self.error_response(Request(scope))(scope, receive, send_with_headers)
