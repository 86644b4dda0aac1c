"""Answers that are streamed: lines of JSON with the seconds so far, then one with the answer."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from app.http.accept import preferred
from app.http.root_path import route_path

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

JSON, NDJSON = "application/json", "application/x-ndjson"

#: The key of a scope whose answer is streamed.
STREAMED = "headroom.streamed"

#: The seconds between two lines.
INTERVAL = 1.0


class StreamingMiddleware:
    """ASGI middleware that streams the answers of some paths to clients that accept NDJSON.

    A refusal within the first interval has its own status and media type. Later ones are the last line of a response
    whose status was 200.
    """

    def __init__(self, app: ASGIApp, paths: Collection[str], interval: float = INTERVAL) -> None:
        self.app, self.paths, self.interval = app, paths, interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "POST" or not self._is_wanted(scope):
            await self.app(scope, receive, send)
            return
        whole = _Whole()
        answering = asyncio.ensure_future(self.app(_as_json(scope), receive, whole.send))
        clock = asyncio.get_running_loop()
        begun, started = clock.time(), False
        try:
            while not (await asyncio.wait((answering,), timeout=self.interval))[0]:
                if not started:
                    await send(_start([]))
                    started = True
                await send(_body(json.dumps({"seconds": _seconds(clock.time() - begun)}).encode() + b"\n", more=True))
            answering.result()
        finally:
            answering.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await answering
        if not started and whole.status != 200:
            await send(whole.start)
            await send(_body(whole.body))
            return
        if not started:
            await send(_start(whole.start["headers"]))
        await send(_body(_final_line(_seconds(clock.time() - begun), whole.status, whole.body)))

    def _is_wanted(self, scope: Scope) -> bool:
        accepted = next((value for name, value in scope["headers"] if name == b"accept"), b"").decode("latin-1")
        return route_path(scope) in self.paths and preferred(accepted, (JSON, NDJSON)) == NDJSON


class _Whole:
    """A response that is buffered until it is complete."""

    def __init__(self) -> None:
        self.start: Message = {}
        self.body = b""

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.start = message
        else:
            self.body += message.get("body", b"")

    @property
    def status(self) -> int:
        return int(self.start["status"])


def _as_json(scope: Scope) -> Scope:
    """Return the scope of the same request for JSON."""
    headers = [(name, value) for name, value in scope["headers"] if name != b"accept"]
    return {**scope, "headers": [*headers, (b"accept", JSON.encode())], STREAMED: True}


def _start(headers: list[tuple[bytes, bytes]]) -> Message:
    kept = [(name, value) for name, value in headers if name not in (b"content-type", b"content-length")]
    return {"type": "http.response.start", "status": 200, "headers": [*kept, (b"content-type", NDJSON.encode())]}


def _body(content: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": content, "more_body": more}


def _final_line(seconds: float, status: int, body: bytes) -> bytes:
    name = b"answer" if status == 200 else b"problem"
    return b'{"seconds": %s, "status": %d, "%s": %s}\n' % (json.dumps(seconds).encode(), status, name, body)


def _seconds(elapsed: float) -> float:
    return round(elapsed, 2)
