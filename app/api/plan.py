"""`POST /api/v1/plan`: from needs to the configurations that fit, ranked, with the reasons."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.plan import PlanAnswer, answer_of
from app.api.examples import Posted
from app.api.responses import REFUSALS, json, problems_of, takes
from app.api.schema import PlanRequest
from app.http.body_params import JsonBody
from calculator.plan.plan import plan
from calculator.plan.request import parse_plan

router = APIRouter(tags=["Plans"])


def answered(body: Any) -> PlanAnswer:
    """The answer to decoded JSON.

    Raises:
        PlanError: where the request is wrong, its needs contradict each other, or every method is refused.
    """
    return answer_of(plan(parse_plan(body)))


@router.post(
    "/api/v1/plan",
    summary="Which configurations to choose from",
    responses={200: {"model": PlanAnswer}, **problems_of(*REFUSALS)},
    openapi_extra=takes(PlanRequest),
)
def post_plan(body: JsonBody) -> Response:
    """Read models, devices and needs, answer with complete configurations that fit, best first, and why."""
    return json(answered(body))


POSTED = Posted(
    path="/api/v1/plan",
    takes=PlanRequest,
    requests={
        "merged": (
            "3B on an 8 GB card, to be merged",
            {
                "model": "meta-llama/Llama-3.2-3B",
                "device": {"gpu": "rtx-4060"},
                "needs": {"must_merge": True},
            },
        ),
        "nothing": (
            "Nothing fits: what to change, and the smallest card that would do",
            {"model": "meta-llama/Llama-3.1-70B", "device": {"gpu": "rtx-4090"}},
        ),
    },
    answered=answered,
)
