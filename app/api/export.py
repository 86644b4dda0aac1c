"""`POST /api/v1/export`: a training script or a tool's configuration."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.export import ExportAnswer
from app.api.examples import RUN, PostExamples
from app.api.requests import ExportRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from app.interop import exports
from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimation.request import parse_request

router = APIRouter(tags=["Plans"])


def answer(body: Any) -> ExportAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the request is invalid, or the format does not support its method.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems = _format_problems(body)
    try:
        request = parse_request({key: value for key, value in body.items() if key != "format"})
    except PlanError as error:
        raise PlanError(*problems, *error.problems) from error
    if problems:
        raise PlanError(*problems)
    return ExportAnswer.model_validate(exports.export(request, body["format"]))


def _format_problems(body: dict[str, Any]) -> tuple[Problem, ...]:
    name = body.get("format")
    if isinstance(name, str) and name in exports.FORMATS:
        return ()
    return (Problem(loc="format", msg=f"must be one of {', '.join(exports.FORMATS)}", input=name),)


@router.post(
    "/api/v1/export",
    summary="Export a run as a training script or a tool's configuration",
    responses={200: {"model": ExportAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(ExportRequest),
)
def post_export(body: JsonBody) -> Response:
    """Return a file that runs the requested training. A comment at its head states the estimate.

    `peft` is a Python script for transformers and peft. It runs the training step that the figures describe, with any
    method: a plain loop, or `transformers.Trainer` or TRL's trainer if `training.trainer` names one.

    With images, the script is for `transformers` and `trl-sft` on one GPU, and loads the model's processor.

    With several GPUs, the script prepares the model with accelerate or a trainer, and `additional_files` has
    accelerate's configuration for FSDP2, and DeepSpeed's for ZeRO. The comment at the script's head states the command.

    `axolotl`, `llama-factory` and `torchtune` are the YAML files of these tools; the last is for requests with
    `training.trainer` `torchtune`. A method that the tool does not have is answered with 422; a setting that the tool
    handles differently is listed in `not_expressed`.
    """
    return json_response(answer(body))


_QLORA = {**RUN, "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"}}

EXAMPLES = PostExamples(
    path="/api/v1/export",
    request_model=ExportRequest,
    requests={
        name: (summary, {"format": name, **_QLORA})
        for name, summary in (
            ("peft", "A script for transformers and peft"),
            ("axolotl", "An axolotl configuration"),
            ("llama-factory", "A LLaMA-Factory configuration"),
        )
    }
    | {
        "torchtune": (
            "A torchtune configuration",
            {
                "format": "torchtune",
                "model": RUN["model"],
                "method": {"name": "lora", "r": 16, "target_modules": ["q_proj", "v_proj"]},
                "training": {"trainer": "torchtune", "adapter_dtype": "model", "gradient_checkpointing": True},
            },
        )
    }
    | {
        "fsdp": (
            "A script for 8 GPUs with accelerate's configuration of FSDP2",
            {"format": "peft", **_QLORA, "method": {"name": "full"}, "device": {"count": 8, "sharding": "fsdp"}},
        )
    },
    answer=answer,
)
