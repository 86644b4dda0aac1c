"""`POST /api/v1/estimate`: the memory of one training run, and whether it fits."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response
from starlette.requests import Request

from app.api.answers.encoding import encoded
from app.api.answers.estimate import SingleEstimateAnswer
from app.api.examples import RUN, PostExamples
from app.api.requests import EstimateRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.engines.engine import Client, answered
from app.http.body_params import JsonBody
from app.http.disconnection import client_of
from app.service.metrics import ESTIMATES
from calculator.estimation.request import Request as EstimatedRequest
from calculator.estimation.request import parse_request

router = APIRouter(tags=["Plans"])


def answer(body: Any, client: Client | None = None) -> SingleEstimateAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, or the libraries refuse the combination.
        HTTPProblem: 503, if too many traces wait, or the client has gone.
    """
    return SingleEstimateAnswer.model_validate(answered(parse_request(body), client, whole=True))


def answer_text(body: Any, client: Client | None = None) -> bytes:
    """Return the JSON of an answer to a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, or the libraries refuse the combination.
        HTTPProblem: 503, if too many traces wait, or the client has gone.
    """
    return answer_text_of(parse_request(body), client)


def answer_text_of(request: EstimatedRequest, client: Client | None = None) -> bytes:
    """Answer a parsed request, as JSON text."""
    text = encoded(SingleEstimateAnswer, answered(request, client, whole=True))
    ESTIMATES.labels("/api/v1/estimate").inc()
    return text


@router.post(
    "/api/v1/estimate",
    summary="Estimate the memory of one training run",
    responses={200: {"model": SingleEstimateAnswer}, **problem_responses(*BODY_ERRORS, 503)},
    openapi_extra=json_body(EstimateRequest),
)
def post_estimate(request: Request, body: JsonBody) -> Response:
    """Return the parameters, the memory of one training step to the byte, and whether the run fits the device.

    `memory.components` lists every tensor that is alive at the peak, with its formula and source. A combination that
    transformers, PEFT or bitsandbytes refuse is answered with 422 and the reason.

    A model that the calculator does not model is answered by a trace of its real modules, if PyTorch and the libraries
    are installed: `engine` and `grade` state it. A trace takes seconds to minutes, and ends if the client closes the
    connection. If too many wait, the answer is 503.
    """
    return json_response(answer_text(body, client_of(request)))


EXAMPLES = PostExamples(
    path="/api/v1/estimate",
    request_model=EstimateRequest,
    requests={
        "qlora": (
            "QLoRA of an 8B model on a 24 GB GPU",
            {**RUN, "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"}},
        ),
        "config": (
            "A model given by its config.json",
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
    answer=answer,
)
