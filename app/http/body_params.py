"""Parameters with which endpoint functions receive the body of a request.

Endpoint functions compute, so they are not coroutines: FastAPI runs them in a thread, where they do not block the event
loop. The body must be awaited and is read before.
"""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from app.http.bodies import decode_form, read_body, read_json
from app.http.multipart import MEDIA_TYPE, decode_multipart

#: The key of a request's scope for its decoded JSON, which error responses quote.
BODY = "headroom.body"


async def _json(request: Request) -> Any:
    body = await read_json(request)
    request.scope[BODY] = body
    return body


async def _form(request: Request) -> list[tuple[str, str]]:
    kind = request.headers.get("content-type", "")
    body = await read_body(request)
    return decode_multipart(kind, body) if kind.lower().startswith(MEDIA_TYPE) else decode_form(body)


#: The decoded JSON of a body.
JsonBody = Annotated[Any, Depends(_json)]

#: The names and values of a submitted form, in order; empty values are included.
FormFields = Annotated[list[tuple[str, str]], Depends(_form)]
