"""`POST /api/v1/compare`: fine-tuning methods side by side."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.compare import CompareAnswer, compare_answer
from app.api.examples import RUN, PostExamples
from app.api.requests import CompareRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from calculator.comparison.methods import compare, parse_comparison

router = APIRouter(tags=["Plans"])


def answer(body: Any) -> CompareAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid.
    """
    return compare_answer(compare(parse_comparison(body)))


@router.post(
    "/api/v1/compare",
    summary="Compare fine-tuning methods on one run",
    responses={200: {"model": CompareAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(CompareRequest),
)
def post_compare(body: JsonBody) -> Response:
    """Estimate the same model, training and device with several methods, one row per method.

    Without `methods`, every method is compared with PEFT's defaults. A method that the libraries refuse in this
    combination keeps its row: `estimate` is null, `problems` states why, and `alternative` is the closest combination
    that they accept.
    """
    return json_response(answer(body))


EXAMPLES = PostExamples(
    path="/api/v1/compare",
    request_model=CompareRequest,
    requests={
        "all": ("All methods with PEFT's defaults", {**RUN, "reserved": "rule"}),
        "ranks": (
            "LoRA at two ranks",
            {**RUN, "methods": [{"name": "lora", "r": 8}, {"name": "lora", "r": 64}], "reserved": "rule"},
        ),
    },
    answer=answer,
)
