"""`POST /api/v1/limits`: the largest value of a setting that still fits the device."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.limits import LimitsAnswer, LimitsRequest, answer_of
from app.api.examples import PLAN, Posted
from app.api.responses import REFUSALS, json, problems_of, takes
from app.http.body_params import JsonBody
from calculator.limits.limits import limit, parse_limit

router = APIRouter(tags=["Plans"])


def answered(body: Any) -> LimitsAnswer:
    """The answer to decoded JSON.

    Raises:
        PlanError: where the request is wrong, or the real stack refuses the combination.
    """
    return answer_of(limit(parse_limit(body)))


@router.post(
    "/api/v1/limits",
    summary="The largest value that fits",
    responses={200: {"model": LimitsAnswer}, **problems_of(*REFUSALS)},
    openapi_extra=takes(LimitsRequest),
)
def post_limits(body: JsonBody) -> Response:
    """Read a plan with its device and the setting to solve for, answer with the largest value that fits."""
    return json(answered(body))


_QLORA = {"name": "qlora", "r": 16, "target_modules": "all-linear"}

POSTED = Posted(
    path="/api/v1/limits",
    takes=LimitsRequest,
    requests={
        "rank": (
            "The highest rank of 13B QLoRA on a 24 GB card",
            {**PLAN, "model": "meta-llama/Llama-2-13b-hf", "method": _QLORA, "solve_for": "r"},
        ),
        "length": (
            "The longest sequence of an 8B QLoRA on it",
            {**PLAN, "method": _QLORA, "solve_for": "sequence_length"},
        ),
    },
    answered=answered,
)
