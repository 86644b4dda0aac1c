"""What endpoints share: how an answer travels, and how bodies and errors are described."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import Response

from app.http.problems import MEANINGS, MEDIA_TYPE, ProblemDocument

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Statuses that an endpoint with a JSON body may refuse with.
REFUSALS = (400, 413, 415, 422)


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The error responses of an operation, for its description."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}}
    return {status: {"description": MEANINGS[status][1], "content": content} for status in statuses}


def takes(model: type[BaseModel]) -> dict[str, Any]:
    """The description of a JSON body that the calculator validates."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def json(answer: BaseModel) -> Response:
    """An answer as the response that carries it."""
    return Response(answer.model_dump_json(), media_type="application/json")
