"""`POST /api/v1/run`: every phase of a run, and the one that ends it."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.run import RunAnswer
from app.api.examples import RUN, PostExamples
from app.api.requests import RunRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from calculator.run.request import parse_run
from calculator.run.run import whole_run

router = APIRouter(tags=["Plans"])


def answer(body: Any) -> RunAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, the libraries refuse the combination, or a phase is not modeled.
    """
    return RunAnswer.model_validate(whole_run(parse_run(body)))


@router.post(
    "/api/v1/run",
    summary="Estimate every phase of a run",
    responses={200: {"model": RunAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(RunRequest),
)
def post_run(body: JsonBody) -> Response:
    """Return the peaks of loading, the first step, later steps, evaluation, generation, checkpoints and merging.

    Each phase has its GPU memory, its host memory and its disk space. `ended_in` is the phase that ends the run.
    `files` has the exact size of each large file of a checkpoint. A request without `training.trainer` is a run of
    transformers' Trainer.
    """
    return json_response(answer(body))


_LORA = {"name": "lora", "r": 16, "target_modules": "all-linear"}

EXAMPLES = PostExamples(
    path="/api/v1/run",
    request_model=RunRequest,
    requests={
        "evaluation": (
            "LoRA of an 8B model whose evaluation gathers logits",
            {
                **RUN,
                "method": _LORA,
                "run": {"eval_strategy": "epoch", "compute_metrics": True, "eval_samples": 200, "save_total_limit": 2},
            },
        ),
        "merge": (
            "Checkpoints, and a merged model",
            {**RUN, "method": _LORA, "run": {"save_steps": 100, "merge_and_unload": True}},
        ),
    },
    answer=answer,
)
