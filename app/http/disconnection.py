"""Whether the client of a request is still connected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio import from_thread

from app.engines.engine import Client

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import Receive


def client_of(request: Request) -> Client:
    """Return the client of a request, for a function that runs in a thread of the server."""
    return Client(gone=lambda: from_thread.run(request.is_disconnected))


async def client_left(receive: Receive) -> None:
    """Wait until the client of a request whose body has been read is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass
