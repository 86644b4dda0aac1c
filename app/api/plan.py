"""`POST /api/v1/plan`: ranked configurations that fit the device and meet the needs."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.plan import PlanAnswer, plan_answer
from app.api.examples import PostExamples
from app.api.requests import PlanRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from calculator.planning.plan import plan
from calculator.planning.request import parse_plan

router = APIRouter(tags=["Plans"])


def answer(body: Any) -> PlanAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, its needs contradict each other, or every method is refused.
    """
    return plan_answer(plan(parse_plan(body)))


@router.post(
    "/api/v1/plan",
    summary="Find configurations that fit",
    responses={200: {"model": PlanAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(PlanRequest),
)
def post_plan(body: JsonBody) -> Response:
    """Return complete configurations for each model on each device, best first, with the reasons for and against.

    For several GPUs without `device.sharding`, the sharding is chosen too, and `shardings` compares them.

    If nothing fits, `nearest_miss` is the configuration that comes closest, and `changes` lists what to change.
    `ruled_out` states for every other method why it is not proposed.
    """
    return json_response(answer(body))


EXAMPLES = PostExamples(
    path="/api/v1/plan",
    request_model=PlanRequest,
    requests={
        "merged": (
            "3B on an 8 GB GPU, with an adapter that can be merged",
            {
                "model": "meta-llama/Llama-3.2-3B",
                "device": {"gpu": "rtx-4060"},
                "needs": {"must_merge": True},
                "reserved": "rule",
            },
        ),
        "sharding": (
            "1B on two 24 GB GPUs: which sharding",
            {
                "model": "meta-llama/Llama-3.2-1B",
                "device": {"gpu": "rtx-4090", "count": 2},
                "needs": {"priorities": ["quality", "memory"]},
                "reserved": "rule",
            },
        ),
        "nothing": (
            "Nothing fits: what to change, and the smallest GPU that is enough",
            {"model": "meta-llama/Llama-3.1-70B", "device": {"gpu": "rtx-4090"}, "reserved": "rule"},
        ),
    },
    answer=answer,
)
