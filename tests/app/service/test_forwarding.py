"""Long requests wait for the processes that answer them."""

import asyncio

import pytest

from app.service.forwarding import ForwardingMiddleware
from app.service.observation import ENDPOINT
from tests.serving import run

SCOPE = {
    "type": "http",
    "method": "GET",
    "path": "/plan",
    "raw_path": b"/plan",
    "query_string": b"",
    "scheme": "http",
    "headers": [(b"host", b"localhost")],
    ENDPOINT: "/plan",
}
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"


async def _answered(socket, delay, patience):
    """The messages of a response by a process that opens its socket after a delay; None is never."""
    sent, asked = [], iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive():
        message = next(asked, None)
        return message if message is not None else await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    async def respond(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(RESPONSE)
        await writer.drain()
        writer.close()

    async def process():
        await asyncio.sleep(delay)
        return await asyncio.start_unix_server(respond, socket)

    starting = asyncio.ensure_future(process()) if delay is not None else None
    await ForwardingMiddleware(None, socket, patience)(dict(SCOPE), receive, send)
    if starting is not None:
        (await starting).close()
    return sent


@pytest.fixture
def socket(tmp_path):
    return str(tmp_path / "long")


def test_a_request_waits_until_the_processes_have_started(socket):
    start, *bodies = run(_answered(socket, 0.3, 30))
    assert start["status"] == 200
    assert b"".join(body["body"] for body in bodies) == b"hello"


def test_a_request_is_refused_if_none_starts(socket):
    start, *_ = run(_answered(socket, None, 0.2))
    assert start["status"] == 503
    assert (b"retry-after", b"5") in [(name.lower(), value) for name, value in start["headers"]]
