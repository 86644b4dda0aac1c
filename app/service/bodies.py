"""A request's body, read before the application reads it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.http.bodies import LARGEST_BODY

if TYPE_CHECKING:
    from starlette.types import Message, Receive


async def buffered(receive: Receive) -> tuple[bytes | None, Receive]:
    """Return a body, and a function that receives it again.

    The body is None if it is larger than any endpoint accepts, or if the client is gone: the function then receives
    what was read and what follows.
    """
    read: list[Message] = []
    size = 0
    while True:
        message = await receive()
        read.append(message)
        size += len(message.get("body", b""))
        whole = message["type"] == "http.request" and not message.get("more_body", False)
        if whole or message["type"] != "http.request" or size > LARGEST_BODY:
            break
    body = b"".join(piece.get("body", b"") for piece in read) if whole and size <= LARGEST_BODY else None
    if body is not None:
        read = [{"type": "http.request", "body": body, "more_body": False}]
    read.reverse()

    async def receive_again() -> Message:
        return read.pop() if read else await receive()

    return body, receive_again
