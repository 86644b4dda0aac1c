"""The OpenAPI document: the routes as FastAPI describes them, the request models, and examples computed live."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from app.answers import Health
from app.api import compare_answer, estimate_answer, listed_gpus, listed_methods, listed_models
from app.catalogues import ModelDetail
from app.problems import ProblemDocument, invalid
from app.schema import CompareRequest, EstimateRequest
from app.version import VERSION
from calculator import catalogue
from calculator.comparison import compare, parse_comparison
from calculator.errors import PlanError
from calculator.estimate import estimate
from calculator.request import parse_request

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastapi import FastAPI
    from pydantic import BaseModel

REFS = "#/components/schemas/{model}"

DESCRIPTION = (
    "Says, before a GPU is rented, whether a fine-tuning run fits, and shows its working. Sizes are whole bytes. "
    "Unknown fields are refused, never ignored. Every error is a problem document (RFC 9457)."
)

_PLAN: dict[str, Any] = {
    "model": "meta-llama/Llama-3.1-8B",
    "training": {"micro_batch_size": 1, "sequence_length": 2048, "gradient_checkpointing": True},
    "device": {"gpu": "rtx-4090"},
}

#: The requests that the document shows, each with a sentence that says what it asks.
ESTIMATES: dict[str, tuple[str, dict[str, Any]]] = {
    "qlora": (
        "QLoRA of an 8B model on a 24 GB card",
        {**_PLAN, "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"}},
    ),
    "config": (
        "A model by its config.json",
        {
            "model": {
                "config": {
                    "model_type": "llama",
                    "hidden_size": 2048,
                    "intermediate_size": 5632,
                    "num_hidden_layers": 22,
                    "num_attention_heads": 32,
                    "num_key_value_heads": 4,
                    "vocab_size": 32000,
                }
            },
            "method": {"name": "lora", "r": 8},
        },
    ),
    "textbook": (
        "The lesson's rules of thumb for 70 billion parameters",
        {"model": {"parameters": 70_000_000_000}, "method": {"name": "full"}, "accounting": "textbook"},
    ),
}

COMPARISONS: dict[str, tuple[str, dict[str, Any]]] = {
    "all": ("All methods with PEFT's defaults", _PLAN),
    "ranks": ("Two ranks of LoRA", {**_PLAN, "methods": [{"name": "lora", "r": 8}, {"name": "lora", "r": 64}]}),
}


def document(app: FastAPI) -> dict[str, Any]:
    """The application's OpenAPI document."""
    told = get_openapi(
        title="Headroom",
        version=VERSION,
        summary="Whether a fine-tuning run fits a GPU, with its working",
        description=DESCRIPTION,
        routes=app.routes,
    )
    _, schemas = models_json_schema(
        [(model, "validation") for model in (EstimateRequest, CompareRequest, ProblemDocument)], ref_template=REFS
    )
    components = told.setdefault("components", {}).setdefault("schemas", {})
    components.update(schemas["$defs"])
    for name in ("HTTPValidationError", "ValidationError"):
        components.pop(name, None)
    for operation in operations(told):
        _settle(operation)
    for path, (sentence, answer) in _catalogues().items():
        content = told["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        content["examples"] = {"answer": {"summary": sentence, "value": answer.model_dump(mode="json")}}
    _exemplify(told["paths"]["/api/v1/estimate"]["post"], ESTIMATES, _estimated)
    _exemplify(told["paths"]["/api/v1/compare"]["post"], COMPARISONS, _compared)
    return told


def operations(told: dict[str, Any]) -> list[dict[str, Any]]:
    """Every operation of a document, in order."""
    return [operation for path in told["paths"].values() for operation in path.values()]


def _settle(operation: dict[str, Any]) -> None:
    """Take out FastAPI's own 422, which nothing here answers, and show a problem beside each error."""
    answers = operation["responses"]
    if "HTTPValidationError" in json.dumps(answers.get("422", {})):
        del answers["422"]
    if "422" in answers:
        answers["422"]["content"]["application/problem+json"]["example"] = _refused()


def _exemplify(
    operation: dict[str, Any], asked: dict[str, tuple[str, dict[str, Any]]], answered: Callable[[Any], Any]
) -> None:
    operation["requestBody"]["content"]["application/json"]["examples"] = {
        key: {"summary": sentence, "value": body} for key, (sentence, body) in asked.items()
    }
    operation["responses"]["200"]["content"]["application/json"]["examples"] = {
        key: {"summary": sentence, "value": answered(body)} for key, (sentence, body) in asked.items()
    }


def _catalogues() -> dict[str, tuple[str, BaseModel]]:
    """An answer of each path that only reads; of a long list, its first two entries."""
    models, gpus, methods = listed_models(), listed_gpus(), listed_methods()
    return {
        "/api/v1/models": ("The first two models", models.model_copy(update={"models": models.models[:2]})),
        "/api/v1/models/{id}": ("One model", ModelDetail.model_validate(catalogue.model(_PLAN["model"]))),
        "/api/v1/gpus": ("The first two cards", gpus.model_copy(update={"gpus": gpus.gpus[:2]})),
        "/api/v1/methods": ("Two methods", methods.model_copy(update={"methods": methods.methods[:2]})),
        "/healthz": ("It runs", Health(status="ok", version=VERSION)),
    }


def _estimated(body: Any) -> Any:
    return estimate_answer(estimate(parse_request(body))).model_dump(mode="json")


def _compared(body: Any) -> Any:
    return compare_answer(compare(parse_comparison(body))).model_dump(mode="json")


def _refused() -> Any:
    body = {"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora"}, "training": {"sequence_length": 0}}
    try:
        parse_request(body)
    except PlanError as error:
        return json.loads(bytes(invalid(error.problems).body))
    raise AssertionError("the example of a refused request must be refused")
