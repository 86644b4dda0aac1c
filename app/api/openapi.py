"""The OpenAPI document: FastAPI's routes, the request models, and examples computed live."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.api import GET_EXAMPLES, POST_EXAMPLES
from app.api.answers.progress import ProgressLine
from app.api.responses import lines_of
from app.http.problems import ProblemDocument, invalid_response
from app.http.progress import NDJSON
from app.resources import VERSION
from app.service.endpoints import STREAMED
from calculator.common.errors import PlanError
from calculator.estimation.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from pydantic import BaseModel

    from app.api.examples import PostExamples

REF_TEMPLATE = "#/components/schemas/{model}"

DESCRIPTION = (
    "Tells you whether a fine-tuning run fits a GPU before you rent it, and shows the calculation. Sizes are whole"
    " bytes. Unknown fields are refused, never ignored. Every error is a problem document (RFC 9457)."
)

#: The purpose of the endpoints of each tag.
TAGS = {
    "Plans": "What a run needs, whether it fits, and which runs do. Each answer follows from the body alone.",
    "Catalogues": "The models, GPUs, methods and trainers that requests can name.",
    "Validation": "How far estimates were from measurements.",
    "Service": "Whether this server answers requests.",
}


def document(app: FastAPI, pause: Callable[[], None] = lambda: None) -> dict[str, Any]:
    """Return the application's OpenAPI document. `pause` is called before each example is computed."""
    schema = get_openapi(
        title="Headroom",
        version=VERSION,
        summary="Does a fine-tuning run fit a GPU? The answer, with its calculation",
        description=DESCRIPTION,
        routes=app.routes,
        tags=[{"name": name, "description": description} for name, description in TAGS.items()],
        servers=[{"url": "/"}],
    )
    _add_models(schema)
    for operation in operations(schema):
        _correct_422(operation)
    for example in GET_EXAMPLES:
        pause()
        content = schema["paths"][example.path]["get"]["responses"]["200"]["content"]["application/json"]
        value = example.answer().model_dump(mode="json")
        content["examples"] = {"answer": {"summary": example.summary, "value": value}}
    for examples in POST_EXAMPLES:
        _add_examples(schema["paths"][examples.path]["post"], examples, pause)
    for path in STREAMED:
        responses = schema["paths"][path]["post"]["responses"]
        responses["200"]["content"][NDJSON] = {"schema": lines_of(ProgressLine)}
    return schema


def operations(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """Return every operation of a document, in order."""
    return [operation for path in schema["paths"].values() for operation in path.values()]


def _add_models(schema: dict[str, Any]) -> None:
    """Add the models that FastAPI does not see: request bodies, lines of NDJSON, problem documents."""
    models: list[type[BaseModel]] = [
        ProblemDocument,
        ProgressLine,
        *(examples.request_model for examples in POST_EXAMPLES),
    ]
    models += [examples.line_model for examples in POST_EXAMPLES if examples.line_model is not None]
    _, definitions = models_json_schema([(model, "validation") for model in models], ref_template=REF_TEMPLATE)
    components = schema.setdefault("components", {}).setdefault("schemas", {})
    components.update(definitions["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)


def _correct_422(operation: dict[str, Any]) -> None:
    """Remove FastAPI's own 422, which no endpoint returns, and add an example to ours."""
    responses = operation["responses"]
    if "HTTPValidationError" in json.dumps(responses.get("422", {})):
        del responses["422"]
    if "422" in responses:
        responses["422"]["content"]["application/problem+json"]["example"] = _example_problem()


def _add_examples(operation: dict[str, Any], examples: PostExamples, pause: Callable[[], None]) -> None:
    operation["requestBody"]["content"]["application/json"]["examples"] = {
        key: {"summary": summary, "value": body} for key, (summary, body) in examples.requests.items()
    }
    answers = operation["responses"]["200"]["content"][examples.media_type]["examples"] = {}
    for key, (summary, body) in examples.requests.items():
        pause()
        answers[key] = {"summary": summary, "value": examples.response(body)}


def _example_problem() -> Any:
    body = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora"}, "training": {"sequence_length": 0}}
    try:
        parse_request(body)
    except PlanError as error:
        return json.loads(bytes(invalid_response(error.problems).body))
    raise AssertionError("the example of an invalid request must be refused")
