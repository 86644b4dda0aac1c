"""`POST /api/v1/inference`: what it takes to serve a tuned model."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.inference import InferenceAnswer
from app.api.examples import Posted
from app.api.responses import REFUSALS, json, problems_of, takes
from app.api.schema import InferenceRequest
from app.http.body_params import JsonBody
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference

router = APIRouter(tags=["Plans"])


def answered(body: Any) -> InferenceAnswer:
    """The answer to decoded JSON.

    Raises:
        PlanError: where the request is wrong, or the real stack refuses the combination.
    """
    return InferenceAnswer.model_validate(inference(parse_inference(body)))


@router.post(
    "/api/v1/inference",
    summary="What it takes to serve a tuned model",
    responses={200: {"model": InferenceAnswer}, **problems_of(*REFUSALS)},
    openapi_extra=takes(InferenceRequest),
)
def post_inference(body: JsonBody) -> Response:
    """Read how a tuned model is served, answer with the memory of each pass and its costs over the base model."""
    return json(answered(body))


_LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}

POSTED = Posted(
    path="/api/v1/inference",
    takes=InferenceRequest,
    requests={
        "tasks": (
            "Twenty tasks beside one 8B base on a 24 GB card",
            {
                "model": "meta-llama/Llama-3.1-8B",
                "method": _LORA,
                "serving": {"tasks": 20, "batch_size": 4, "context_length": 2048},
                "device": {"gpu": "rtx-4090"},
            },
        ),
        "merged": (
            "An update merged into a base in 4 bits",
            {
                "model": "meta-llama/Llama-3.1-8B",
                "method": {**_LORA, "name": "qlora"},
                "serving": {"merged": True},
            },
        ),
    },
    answered=answered,
)
