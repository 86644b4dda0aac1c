"""Parts that endpoints share: the JSON response, and the descriptions of bodies and errors in the OpenAPI document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastapi.responses import Response

from app.http.problems import MEANINGS, MEDIA_TYPE, ProblemDocument

if TYPE_CHECKING:
    from pydantic import BaseModel

#: Error statuses of an endpoint that reads a JSON body.
BODY_ERRORS = (400, 413, 415, 422)


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Describe the error responses of an operation."""
    content = {MEDIA_TYPE: {"schema": {"$ref": f"#/components/schemas/{ProblemDocument.__name__}"}}}
    return {status: {"description": MEANINGS[status][1], "content": content} for status in statuses}


def json_body(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a JSON body. The calculator validates it; the model only documents it."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def lines_of(model: type[BaseModel]) -> dict[str, Any]:
    """Describe a body of lines of JSON: OpenAPI 3.1 has a type for the text, and for the content of a text."""
    schema = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {
        "type": "string",
        "description": f"Lines of JSON, each a {model.__name__}.",
        "contentMediaType": "application/json",
        "contentSchema": schema,
    }


def json_response(answer: BaseModel | bytes) -> Response:
    """Return the response that carries an answer, or its JSON."""
    content = answer if isinstance(answer, bytes) else answer.model_dump_json()
    return Response(content, media_type="application/json")
