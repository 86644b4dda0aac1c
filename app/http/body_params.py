"""What a handler is given of a request's body.

A handler that computes is no coroutine: FastAPI runs it in a thread, so that it holds up nobody else. What must be
awaited, the body, is read before it begins.
"""

from typing import Annotated, Any

from fastapi import Depends
from starlette.requests import Request

from app.forms.plan_form import posted
from app.http.bodies import body, json_body


async def _json(request: Request) -> Any:
    return await json_body(request)


async def _form(request: Request) -> list[tuple[str, str]]:
    return posted(await body(request))


#: The decoded JSON of a body.
JsonBody = Annotated[Any, Depends(_json)]

#: The names and values of a form that was sent, in order; empty values too.
FormFields = Annotated[list[tuple[str, str]], Depends(_form)]
