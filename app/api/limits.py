"""`POST /api/v1/limits`: the largest value of a setting that fits the device, or the fewest GPUs."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.limits import LimitsAnswer, limits_answer
from app.api.examples import RUN, PostExamples
from app.api.requests import LimitsRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from calculator.limit_search.limits import limit, parse_limit

router = APIRouter(tags=["Plans"])


def answer(body: Any) -> LimitsAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, or the libraries refuse the combination.
    """
    return limits_answer(limit(parse_limit(body)))


@router.post(
    "/api/v1/limits",
    summary="Find the largest value of a setting that fits, or the fewest GPUs",
    responses={200: {"model": LimitsAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(LimitsRequest),
)
def post_limits(body: JsonBody) -> Response:
    """Return the largest rank, sequence length, micro-batch, ... with which the run fits its device.

    `solve_for` names the setting; every other setting keeps its value. `bound` states what prevents a larger value,
    and `above` is the run with the next one. With `count`, the answer is the fewest GPUs on which a run with
    `device.sharding` fits, and `below` is the run on one GPU fewer.
    """
    return json_response(answer(body))


_QLORA = {"name": "qlora", "r": 16, "target_modules": "all-linear"}

EXAMPLES = PostExamples(
    path="/api/v1/limits",
    request_model=LimitsRequest,
    requests={
        "rank": (
            "The highest rank of 13B QLoRA on a 24 GB GPU",
            {**RUN, "model": "meta-llama/Llama-2-13b-hf", "method": _QLORA, "solve_for": "r", "reserved": "rule"},
        ),
        "length": (
            "The longest sequence of 8B QLoRA on a 24 GB GPU",
            {**RUN, "method": _QLORA, "solve_for": "sequence_length", "reserved": "rule"},
        ),
        "count": (
            "The fewest 24 GB GPUs for 8B full fine-tuning with FSDP2",
            {
                **RUN,
                "method": {"name": "full"},
                "device": {"gpu": "RTX 4090", "sharding": "fsdp"},
                "solve_for": "count",
                "reserved": "rule",
            },
        ),
    },
    answer=answer,
)
