"""`POST /api/v1/estimate`: what one plan needs, and whether it fits."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.estimate import EstimateAnswer
from app.api.examples import PLAN, Posted
from app.api.responses import REFUSALS, json, problems_of, takes
from app.api.schema import EstimateRequest
from app.http.body_params import JsonBody
from calculator.estimate.estimate import estimate
from calculator.estimate.request import parse_request

router = APIRouter(tags=["Plans"])


def answered(body: Any) -> EstimateAnswer:
    """The answer to decoded JSON.

    Raises:
        PlanError: where the request is wrong, or the real stack refuses the combination.
    """
    return EstimateAnswer.model_validate(estimate(parse_request(body), whole=True))


@router.post(
    "/api/v1/estimate",
    summary="What one plan needs, and whether it fits",
    responses={200: {"model": EstimateAnswer}, **problems_of(*REFUSALS)},
    openapi_extra=takes(EstimateRequest),
)
def post_estimate(body: JsonBody) -> Response:
    """Read a plan, answer with its parameters, its memory to the byte, and the verdict on its device."""
    return json(answered(body))


POSTED = Posted(
    path="/api/v1/estimate",
    takes=EstimateRequest,
    requests={
        "qlora": (
            "QLoRA of an 8B model on a 24 GB card",
            {**PLAN, "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"}},
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
    },
    answered=answered,
)
