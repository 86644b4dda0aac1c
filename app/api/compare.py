"""`POST /api/v1/compare`: the methods side by side."""

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.estimate import CompareAnswer, ComparisonRowAnswer, settings
from app.api.examples import PLAN, Posted
from app.api.responses import REFUSALS, json, problems_of, takes
from app.api.schema import CompareRequest
from app.http.body_params import JsonBody
from calculator.compare.methods import ComparisonRow, compare, parse_comparison

router = APIRouter(tags=["Plans"])


def answered(body: Any) -> CompareAnswer:
    """The answer to decoded JSON.

    Raises:
        PlanError: where the request is wrong.
    """
    return answer_of(compare(parse_comparison(body)))


def answer_of(rows: Iterable[ComparisonRow]) -> CompareAnswer:
    """A comparison's rows as the API answers them."""
    return CompareAnswer(rows=tuple(_row(row) for row in rows))


def _row(row: ComparisonRow) -> ComparisonRowAnswer:
    answer = {name: getattr(row, name) for name in ("estimate", "problems", "alternative")}
    return ComparisonRowAnswer.model_validate(
        {"method": settings(row.method), **asdict(row.method.facts), **answer}, from_attributes=True
    )


@router.post(
    "/api/v1/compare",
    summary="The methods side by side",
    responses={200: {"model": CompareAnswer}, **problems_of(*REFUSALS)},
    openapi_extra=takes(CompareRequest),
)
def post_compare(body: JsonBody) -> Response:
    """Read a plan without its method, answer with a row a method on the same model, training and device."""
    return json(answered(body))


POSTED = Posted(
    path="/api/v1/compare",
    takes=CompareRequest,
    requests={
        "all": ("All methods with PEFT's defaults", PLAN),
        "ranks": ("Two ranks of LoRA", {**PLAN, "methods": [{"name": "lora", "r": 8}, {"name": "lora", "r": 64}]}),
    },
    answered=answered,
)
