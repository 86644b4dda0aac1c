"""`/docs`, made from the OpenAPI document."""

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.http.problems import MEANINGS
from app.pages.docs import view
from app.presentation.templates import page

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def get_docs(request: Request) -> Response:
    """Show the documentation of the JSON API."""
    document = request.app.openapi()
    return page(
        "docs/page.html",
        description=document["info"]["description"],
        meanings=MEANINGS,
        operations=view.operations(document, str(request.base_url).rstrip("/")),
        problem=view.problem(document),
        title="The JSON API",
    )
