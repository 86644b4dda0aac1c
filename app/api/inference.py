"""`POST /api/v1/inference`: the memory and cost of serving a fine-tuned model."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.inference import InferenceAnswer
from app.api.examples import PostExamples
from app.api.requests import InferenceRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from calculator.inference.inference import inference
from calculator.inference.request import parse_inference

router = APIRouter(tags=["Plans"])


def answer(body: Any) -> InferenceAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, or the libraries refuse the combination.
    """
    return InferenceAnswer.model_validate(inference(parse_inference(body)))


@router.post(
    "/api/v1/inference",
    summary="Estimate the memory of serving a fine-tuned model",
    responses={200: {"model": InferenceAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(InferenceRequest),
)
def post_inference(body: JsonBody) -> Response:
    """Return the memory of each pass of `generate`, and what the fine-tuned model costs over its base model.

    The figures include the weights, the KV cache and the modules of every task on the device. With
    `serving.merged` they also include the memory that merging needs.
    """
    return json_response(answer(body))


_LORA = {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]}

EXAMPLES = PostExamples(
    path="/api/v1/inference",
    request_model=InferenceRequest,
    requests={
        "tasks": (
            "Twenty LoRA tasks on one 8B base model, on a 24 GB GPU",
            {
                "model": "meta-llama/Llama-3.1-8B",
                "method": _LORA,
                "serving": {"tasks": 20, "batch_size": 4, "context_length": 2048},
                "device": {"gpu": "rtx-4090"},
                "reserved": "rule",
            },
        ),
        "merged": (
            "QLoRA merged into its 4-bit base model",
            {
                "model": "meta-llama/Llama-3.1-8B",
                "method": {**_LORA, "name": "qlora"},
                "serving": {"merged": True},
                "reserved": "rule",
            },
        ),
    },
    answer=answer,
)
