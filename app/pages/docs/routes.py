"""`/docs`: the documentation of the JSON API, by Swagger UI, and a list of operations and problems without scripts."""

from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.responses import Response
from fastapi.routing import APIRoute

from app.api import ROUTERS
from app.api.openapi import DESCRIPTION
from app.http.problems import MEANINGS
from app.presentation.templates import page

router = APIRouter(include_in_schema=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """An operation in the list."""

    verb: str
    path: str
    summary: str


def operations() -> tuple[Operation, ...]:
    """Return every operation of the API, in the order of the OpenAPI document, which takes seconds to compute."""
    return tuple(
        Operation(verb=verb, path=route.path.replace(":path", ""), summary=route.summary or "")
        for documented in ROUTERS
        for route in documented.routes
        if isinstance(route, APIRoute) and route.include_in_schema
        for verb in sorted(route.methods or ())
    )


@router.get("/docs")
def get_docs() -> Response:
    """Show the documentation of the JSON API."""
    return page(
        "docs/page.html",
        description=DESCRIPTION,
        meanings=MEANINGS,
        operations=operations(),
        title="The JSON API",
    )
