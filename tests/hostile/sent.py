"""Requests sent to the application without a server: millions are sent in hours."""

import asyncio

from app.http.problems import INTERNAL_ERROR


async def status_of(app, request):
    """Send a request, read the whole answer, and return its status. Faults of the application are raised.

    The status of a page that states an error of the application in its last part is 500.
    """
    statuses, received, last = [], False, b""

    async def receive():
        nonlocal received
        if received:
            await asyncio.Event().wait()
        received = True
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message):
        nonlocal last
        if message["type"] == "http.response.start":
            statuses.append(message["status"])
        else:
            last = message.get("body") or last

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": request.method,
        "path": request.path,
        "raw_path": request.path.encode("utf-8", "surrogatepass"),
        "query_string": request.query,
        "root_path": "",
        "scheme": "http",
        "headers": list(request.headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }
    await app(scope, receive, send)
    (status,) = statuses
    return 500 if INTERNAL_ERROR.encode() in last.replace(b"&#39;", b"'") else status
