"""A cache of the answers that were used last, by canonical request, up to a number of bytes."""

from __future__ import annotations

import json
from collections import OrderedDict
from typing import TYPE_CHECKING

from app.http.bodies import decode_json
from app.http.problems import HTTPProblem
from app.http.progress import NDJSON
from app.service import metrics
from app.service.bodies import buffered
from app.service.endpoints import KEPT
from app.service.observation import CACHE, ENDPOINT

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

#: A response as it was sent: its first message, and its body.
Kept = tuple["Message", bytes]

#: The bytes of a response besides its body and its key, for headers and dictionaries, rounded up.
OVERHEAD = 2048


class AnswerCache:
    """Responses by key. The least recently used are dropped first."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._kept: OrderedDict[str, Kept] = OrderedDict()

    def found(self, key: str) -> Kept | None:
        """Return the response of a key."""
        kept = self._kept.get(key)
        if kept is not None:
            self._kept.move_to_end(key)
        return kept

    def keep(self, key: str, kept: Kept) -> None:
        """Keep a response, unless it alone is over the limit."""
        size = _size(key, kept)
        if size > self.most_bytes or key in self._kept:
            return
        self._kept[key] = kept
        self.bytes += size
        while self.bytes > self.most_bytes:
            self.bytes -= _size(*self._kept.popitem(last=False))
        metrics.CACHE_SIZE.set(self.bytes)

    def __len__(self) -> int:
        return len(self._kept)


class CacheMiddleware:
    """ASGI middleware that answers a request from the cache, and keeps answers with status 200."""

    def __init__(self, app: ASGIApp, cache: AnswerCache) -> None:
        self.app, self.cache = app, cache

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope[ENDPOINT] not in KEPT:
            await self.app(scope, receive, send)
            return
        body, receive = await buffered(receive)
        key = _key(scope, body) if body is not None else None
        if key is None:
            await self.app(scope, receive, send)
            return
        kept = self.cache.found(key)
        scope[CACHE] = "miss" if kept is None else "hit"
        metrics.CACHE.labels(scope[CACHE]).inc()
        if kept is not None:
            start, content = kept
            await send(start)
            await send({"type": "http.response.body", "body": content})
            return
        await self._answer(scope, receive, send, key)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, key: str) -> None:
        start: Message | None = None
        parts: list[bytes] = []

        async def kept(message: Message) -> None:
            nonlocal start
            await send(message)
            if message["type"] == "http.response.start":
                start = message
                return
            parts.append(message.get("body", b""))
            if start is not None and start["status"] == 200 and not message.get("more_body", False):
                self.cache.keep(key, (start, b"".join(parts)))

        await self.app(scope, receive, kept)


def _key(scope: Scope, body: bytes) -> str | None:
    """Return the endpoint, the encoding and the canonical text of a body; None if it is streamed or no strict JSON."""
    headers = dict(scope["headers"])
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if kind != b"application/json" or NDJSON.encode() in headers.get(b"accept", b"").lower():
        return None
    try:
        value = decode_json(body)
    except HTTPProblem:
        return None
    coded = "gzip" if b"gzip" in headers.get(b"accept-encoding", b"") else ""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return f"{scope.get('root_path', '')} {scope[ENDPOINT]} {coded} {text}"


def _size(key: str, kept: Kept) -> int:
    return len(key) + len(kept[1]) + OVERHEAD
