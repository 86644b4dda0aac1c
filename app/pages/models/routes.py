"""`/models`."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import Response

from app.api.model_types import LONGEST, search
from app.pages.models.view import ENGINES, LONG_REASON, PageOfTypes
from app.presentation.templates import page

router = APIRouter(include_in_schema=False)


@router.get("/models")
def get_models(q: str = "", engine: str = "", number: Annotated[str, Query(alias="page")] = "") -> Response:
    """Show a page of the model types that match a search text, and the engine that estimates each."""
    answer = search(q[:LONGEST])
    shown = PageOfTypes(
        matching=answer.types, query=q[:LONGEST], engine=engine if engine in ENGINES else "", number=number
    )
    return page(
        "models/page.html",
        answer=answer,
        engines=ENGINES,
        long_reason=LONG_REASON,
        longest=LONGEST,
        shown=shown,
        title="Supported models",
    )
