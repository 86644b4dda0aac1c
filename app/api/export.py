"""`POST /api/v1/export`: the file that runs a plan."""

from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.estimate import ExportAnswer
from app.api.examples import PLAN, Posted
from app.api.responses import REFUSALS, json, problems_of, takes
from app.api.schema import ExportRequest
from app.http.body_params import JsonBody
from app.interop import exports
from calculator.common.errors import PlanError, Problem, refusal
from calculator.estimate.request import parse_request

router = APIRouter(tags=["Plans"])


def answered(body: Any) -> ExportAnswer:
    """The answer to decoded JSON.

    Raises:
        PlanError: where the request is wrong, or the format can't take its method.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    wrong = list(_wrong_format(body))
    try:
        request = parse_request({key: value for key, value in body.items() if key != "format"})
    except PlanError as error:
        raise PlanError(*wrong, *error.problems) from error
    if wrong:
        raise PlanError(*wrong)
    return ExportAnswer.model_validate(exports.export(request, body["format"]))


def _wrong_format(body: dict[str, Any]) -> tuple[Problem, ...]:
    named = body.get("format")
    if isinstance(named, str) and named in exports.FORMATS:
        return ()
    return (Problem(loc="format", msg=f"must be one of {', '.join(exports.FORMATS)}", input=named),)


@router.post(
    "/api/v1/export",
    summary="A training script, or a tool's configuration, that runs a plan",
    responses={200: {"model": ExportAnswer}, **problems_of(*REFUSALS)},
    openapi_extra=takes(ExportRequest),
)
def post_export(body: JsonBody) -> Response:
    """Read an estimate's request and a format, answer with the file, its estimate in the head, and what differs in it.

    `peft` is a script of transformers and peft that takes the step that the figures speak of; it has every method.
    `axolotl` and `llama-factory` are those tools' YAML: a method that a tool lacks is refused, a setting that it takes
    otherwise is listed in `not_expressed`.
    """
    return json(answered(body))


_QLORA = {**PLAN, "method": {"name": "qlora", "r": 16, "target_modules": "all-linear"}}

POSTED = Posted(
    path="/api/v1/export",
    takes=ExportRequest,
    requests={
        name: (sentence, {"format": name, **_QLORA})
        for name, sentence in (
            ("peft", "A script of transformers and peft"),
            ("axolotl", "A configuration of axolotl"),
            ("llama-factory", "A configuration of LLaMA-Factory"),
        )
    },
    answered=answered,
)
