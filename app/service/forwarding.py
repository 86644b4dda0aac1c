"""Long requests, forwarded to processes of their own, so that short ones do not wait for them.

A request goes over a Unix socket, a connection each. If the client leaves, the connection is closed, and the process
sees that its client is gone.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import h11

from app.http.disconnection import client_left
from app.http.middleware import HEADERS
from app.http.problems import problem_response
from app.http.root_path import route_path
from app.service.bodies import buffered
from app.service.endpoints import SHORT
from app.service.observation import ENDPOINT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

log = logging.getLogger("headroom")

#: The bytes that are read from the socket at once.
BLOCK = 1 << 16

#: How long a request waits for processes that are starting, and how often it tries to connect, in seconds.
_PATIENCE, _INTERVAL = 60.0, 0.1

#: Headers of one connection, which are not forwarded.
_OWN = frozenset((b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"upgrade", b"expect"))

#: Headers of a response that the server adds itself.
_REPLACED = frozenset((b"connection", b"transfer-encoding", b"date"))


class ForwardingMiddleware:
    """ASGI middleware that forwards long requests to a socket."""

    def __init__(self, app: ASGIApp, socket: str, patience: float = _PATIENCE) -> None:
        self.app, self.socket = app, socket
        #: How long a request waits for processes that are starting, in seconds.
        self.patience = patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request here, or forward it."""
        if scope["type"] != "http" or scope[ENDPOINT] in SHORT:
            await self.app(scope, receive, send)
            return
        body, receive = await buffered(receive)
        if body is None:
            await self.app(scope, receive, send)
            return
        answering = asyncio.ensure_future(self._answer(scope, body, send))
        leaving = asyncio.ensure_future(client_left(receive))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        try:
            reader, writer = await self._connected()
        except OSError as error:
            log.warning("no process answers long requests: %s", error)
            detail = "the processes that answer long requests do not start: try again in 5 seconds"
            await problem_response(503, detail, (), {**HEADERS, "Retry-After": "5"})(scope, _nothing, send)
            return
        started = False
        try:
            async for message in _response(reader, writer, scope, body):
                started = True
                await send(message)
        except (OSError, h11.RemoteProtocolError):
            if started:
                raise
            log.exception("a process that answers long requests ended")
            detail = "the process that answered this request ended: try again, or ask for less"
            await problem_response(503, detail, (), {**HEADERS, "Retry-After": "5"})(scope, _nothing, send)
        finally:
            writer.close()

    async def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Connect to the socket, which is absent until the processes have started.

        Raises:
            OSError: if it is still absent after `patience` seconds.
        """
        clock = asyncio.get_running_loop()
        last = clock.time() + self.patience
        while True:
            try:
                return await asyncio.open_unix_connection(self.socket, limit=BLOCK)
            except OSError:
                if clock.time() >= last:
                    raise
            await asyncio.sleep(_INTERVAL)


async def _response(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, scope: Scope, body: bytes
) -> AsyncIterator[dict[str, object]]:
    """Send a request and yield the messages of its response."""
    connection = h11.Connection(h11.CLIENT)
    writer.write(connection.send(_request(scope, body)) or b"")
    writer.write(connection.send(h11.Data(data=body)) or b"")
    writer.write(connection.send(h11.EndOfMessage()) or b"")
    await writer.drain()
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(BLOCK))
        elif isinstance(event, h11.Response):
            headers = [(name, value) for name, value in event.headers if name not in _REPLACED]
            yield {"type": "http.response.start", "status": event.status_code, "headers": headers}
        elif isinstance(event, h11.Data):
            yield {"type": "http.response.body", "body": bytes(event.data), "more_body": True}
        elif isinstance(event, h11.EndOfMessage):
            yield {"type": "http.response.body", "body": b"", "more_body": False}
            return
        elif event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise ConnectionResetError("the connection was closed before the end of the response")


def _request(scope: Scope, body: bytes) -> h11.Request:
    """Return a request as the other process reads it: its root path is that of this process."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    path = scope.get("raw_path") or scope["path"].encode()
    root = scope.get("root_path", "").encode()
    target = path.removeprefix(root) if route_path(scope) != scope["path"] else path
    client = scope["client"][0] if scope.get("client") else "127.0.0.1"
    headers = [
        (name, value) for name, value in scope["headers"] if name not in _OWN and not name.startswith(b"x-forwarded-")
    ]
    headers += [
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (b"x-forwarded-for", client.encode()),
        (b"x-forwarded-proto", scope["scheme"].encode()),
    ]
    return h11.Request(method=scope["method"], target=target + query, headers=headers)


async def _nothing() -> dict[str, object]:
    return {"type": "http.disconnect"}
