"""ETag and Cache-Control of responses that depend only on their address: catalogues, pages and their JSON versions.

The tag depends on the address and the installed files. So a request for a response that the client has is answered
without computing it.
"""

from __future__ import annotations

from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders

from app.resources import RESULTS, STATIC, TEMPLATES, VERSION
from app.service.endpoints import ALWAYS, CATALOGUES, OTHER
from app.service.observation import ENDPOINT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: The `max-age` of a catalogue, in seconds. Pages have `no-cache`: a cache revalidates them for every request.
CATALOGUE_SECONDS = 300


class ETagMiddleware:
    """ASGI middleware that adds ETag and Cache-Control to GET responses, and answers 304 to a client that has one."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        endpoint = scope.get(ENDPOINT)
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD") or endpoint == "/static":
            await self.app(scope, receive, send)
            return
        if endpoint in ALWAYS or endpoint == OTHER:
            await self.app(scope, receive, _with_headers(send, {"Cache-Control": "no-store"}))
            return
        policy = f"public, max-age={CATALOGUE_SECONDS}" if endpoint in CATALOGUES else "no-cache"
        headers = {"ETag": _tag(scope), "Cache-Control": policy}
        if _has(scope, headers["ETag"]):
            response = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            await send({"type": "http.response.start", "status": 304, "headers": response})
            await send({"type": "http.response.body", "body": b""})
            return
        await self.app(scope, receive, _with_headers(send, headers))


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    """Return a `send` that adds headers to a response with status 200; other responses are not kept.

    A response that states its own Cache-Control is not changed: a page in parts may end with a problem.
    """

    async def added(message: Message) -> None:
        if message["type"] == "http.response.start":
            added_headers = headers if message["status"] == 200 else {"Cache-Control": "no-store"}
            target = MutableHeaders(scope=message)
            if "Cache-Control" not in target:
                target.update(added_headers)
        await send(message)

    return added


def _tag(scope: Scope) -> str:
    """Return the tag of an address: weak, because a compressed response has it too."""
    host = Headers(scope=scope).get("host", "")
    address = "\n".join((installed(), scope["scheme"], host, scope.get("root_path", ""), scope["path"]))
    return f'W/"{sha256(address.encode("utf-8", "surrogateescape") + b"?" + scope["query_string"]).hexdigest()[:20]}"'


def _has(scope: Scope, tag: str) -> bool:
    """Return whether If-None-Match names a tag, compared weakly (RFC 9110, section 13.1.2)."""
    given = ",".join(Headers(scope=scope).getlist("if-none-match"))
    opaque = tag.removeprefix("W/")
    return any(part.strip().removeprefix("W/") == opaque for part in given.split(","))


@cache
def installed() -> str:
    """Return a hash of what responses depend on: the version, and the size and time of every installed file."""
    folders = (Path(__file__).parents[1], Path(__file__).parents[2] / "calculator", TEMPLATES, STATIC, RESULTS)
    files = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    stats = [(str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return sha256(f"{VERSION} {stats}".encode()).hexdigest()
