"""The OpenAPI document: the routes as FastAPI describes them, the request models, and examples computed live."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.api import POSTED, READ
from app.http.problems import ProblemDocument, invalid
from app.http.version import VERSION
from calculator.common.errors import PlanError
from calculator.estimate.request import parse_request

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

    from app.api.examples import Posted

REFS = "#/components/schemas/{model}"

DESCRIPTION = (
    "Says, before a GPU is rented, whether a fine-tuning run fits, and shows its working. Sizes are whole bytes. "
    "Unknown fields are refused, never ignored. Every error is a problem document (RFC 9457)."
)


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document."""
    schema = get_openapi(
        title="Headroom",
        version=VERSION,
        summary="Whether a fine-tuning run fits a GPU, with its working",
        description=DESCRIPTION,
        routes=app.routes,
    )
    bodies: list[type[BaseModel]] = [ProblemDocument, *(posted.takes for posted in POSTED)]
    bodies += [posted.line for posted in POSTED if posted.line is not None]
    _, schemas = models_json_schema([(body, "validation") for body in bodies], ref_template=REFS)
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for operation in operations(schema):
        _settle(operation)
    for read in READ:
        content = schema["paths"][read.path]["get"]["responses"]["200"]["content"]["application/json"]
        content["examples"] = {"answer": {"summary": read.sentence, "value": read.answered().model_dump(mode="json")}}
    for posted in POSTED:
        _exemplify(schema["paths"][posted.path]["post"], posted)
    return schema


def operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Every operation of a document, in order."""
    return [operation for path in schema["paths"].values() for operation in path.values()]


def _settle(operation: dict[str, Any]) -> None:
    """Take out FastAPI's own 422, which nothing here answers, and show a problem beside each error."""
    answers = operation["responses"]
    if "HTTPValidationError" in json.dumps(answers.get("422", {})):
        del answers["422"]
    if "422" in answers:
        answers["422"]["content"]["application/problem+json"]["example"] = _refused()


def _exemplify(operation: dict[str, Any], posted: Posted) -> None:
    operation["requestBody"]["content"]["application/json"]["examples"] = {
        key: {"summary": sentence, "value": body} for key, (sentence, body) in posted.requests.items()
    }
    operation["responses"]["200"]["content"][posted.media_type]["examples"] = {
        key: {"summary": sentence, "value": posted.example(body)} for key, (sentence, body) in posted.requests.items()
    }


def _refused() -> Any:
    body = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora"}, "training": {"sequence_length": 0}}
    try:
        parse_request(body)
    except PlanError as error:
        return json.loads(bytes(invalid(error.problems).body))
    raise AssertionError("the example of a refused request must be refused")
