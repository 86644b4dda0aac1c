"""`/models`."""

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.model_types import LONGEST, found
from app.presentation.templates import page

router = APIRouter(include_in_schema=False)


@router.get("/models")
def get_models(q: str = "") -> Response:
    """Show the model types that match a search text, and which engine answers each."""
    query = q[:LONGEST]
    return page("models/page.html", answer=found(query), longest=LONGEST, query=query, title="Model types")
