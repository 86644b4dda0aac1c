"""`POST /api/v1/diagnose`: which allocation of a run failed, and which single changes end the error."""

from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.responses import Response

from app.api.answers.diagnose import DiagnoseAnswer, diagnose_answer
from app.api.examples import PostExamples
from app.api.requests import DiagnoseRequest
from app.api.responses import BODY_ERRORS, json_body, json_response, problem_responses
from app.http.body_params import JsonBody
from app.interop import imports
from app.interop.imports import Imported
from calculator.common.errors import PlanError, Problem, refusal
from calculator.diagnosis.diagnosis import Diagnosis, diagnose
from calculator.diagnosis.message import Message, parse_message
from calculator.diagnosis.snapshot import Snapshot, read_snapshot
from calculator.estimation.request import Request, parse_request
from calculator.inputs.run import RunSettings
from calculator.inputs.unknown_fields import unknown_field
from calculator.run.request import parse_run

router = APIRouter(tags=["Plans"])

T = TypeVar("T")

#: The fields of a request.
FIELDS = tuple(DiagnoseRequest.model_fields)

#: The fields that are text, with a description of each.
TEXTS = {"message": "the text of the error", "snapshot": "the pickle in Base64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosed:
    """A diagnosis, its request body, and the imported file if there is one."""

    diagnosis: Diagnosis
    body: dict[str, Any]
    imported: Imported | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCase:
    """An out-of-memory error and its run, read from a body."""

    request: Request
    run: RunSettings | None
    message: Message | None
    snapshot: Snapshot | None
    body: dict[str, Any]
    imported: Imported | None

    def diagnosed(self) -> Diagnosed:
        """Return the diagnosis.

        Raises:
            PlanError: if the run is not replayed.
        """
        diagnosis = diagnose(self.request, self.message, self.snapshot, self.run)
        return Diagnosed(diagnosis=diagnosis, body=self.body, imported=self.imported)


def diagnosed(body: Any) -> Diagnosed:
    """Diagnose a decoded JSON body.

    Raises:
        PlanError: if the message or the request is invalid, or the run is not replayed.
    """
    return read_case(body).diagnosed()


def read_case(body: Any) -> ReadCase:
    """Read a decoded JSON body.

    Raises:
        PlanError: if the message, the snapshot, the file or the request is invalid.
    """
    if not isinstance(body, dict):
        raise refusal("", "the request must be an object", body)
    problems = [Problem(loc=key, msg=unknown_field(key, FIELDS), input=body[key]) for key in body if key not in FIELDS]
    problems += [
        Problem(loc=name, msg=f"must be {what}", input=body[name])
        for name, what in TEXTS.items()
        if not isinstance(body.get(name) or "", str)
    ]
    if not (body.get("message") or body.get("snapshot")):
        problems.append(Problem(loc="message", msg="must be the text of the error, or give a snapshot", input=None))
    if not isinstance(body.get("request", {}), dict):
        problems.append(Problem(loc="request", msg="must be an object", input=body["request"]))
    if body.get("request") is None and body.get("content") is None:
        message = "give the request of the run, or a file that describes it as content"
        problems.append(Problem(loc="request", msg=message, input=None))
    if problems:
        raise PlanError(*problems)

    def checked(read: Callable[[], T]) -> T | None:
        try:
            return read()
        except PlanError as error:
            problems.extend(error.problems)
            return None

    error = checked(lambda: parse_message(body["message"])) if body.get("message") else None
    snapshot = checked(lambda: read_snapshot(_decoded(body["snapshot"]))) if body.get("snapshot") else None
    run = checked(lambda: _run(body))
    if problems or run is None:
        raise PlanError(*problems)
    imported, plan, request, settings = run
    return ReadCase(request=request, run=settings, message=error, snapshot=snapshot, body=plan, imported=imported)


def _run(body: dict[str, Any]) -> tuple[Imported | None, dict[str, Any], Request, RunSettings | None]:
    imported, plan = _plan(body)
    return imported, plan, *_parsed(plan)


def _decoded(text: str) -> bytes:
    """Return the bytes of Base64."""
    try:
        return b64decode(text, validate=True)
    except ValueError as error:
        raise refusal("snapshot", "must be the pickle in Base64", text[:80]) from error


def _plan(body: dict[str, Any]) -> tuple[Imported | None, dict[str, Any]]:
    """Return the file's content as read, and the request: the file's, with the settings that the request gives."""
    given = body.get("request") or {}
    content = body.get("content")
    if content is None:
        return None, given
    if not isinstance(content, str | dict):
        raise refusal("content", "must be the file's text, or its content as an object", content)
    name = body.get("format")
    if name is not None and not (isinstance(name, str) and name in imports.FORMATS):
        raise refusal("format", f"must be one of {', '.join(imports.FORMATS)}, or null", name)
    imported = imports.read(content, name, given.get("model"))
    return imported, imported.request | {key: _merged(imported.request.get(key), value) for key, value in given.items()}


def _merged(in_file: Any, given: Any) -> Any:
    """Return the file's settings, overridden by those of the request."""
    return {**in_file, **given} if isinstance(in_file, dict) and isinstance(given, dict) else given


def _parsed(plan: dict[str, Any]) -> tuple[Request, RunSettings | None]:
    """Return the parsed request, and its run if it has one; errors are of the field `request`."""
    try:
        if plan.get("run") is None:
            return parse_request({name: value for name, value in plan.items() if name != "run"}), None
        whole = parse_run(plan)
    except PlanError as error:
        raise PlanError(
            *(
                Problem(loc=f"request.{problem.loc}".rstrip("."), msg=problem.msg, input=problem.input)
                for problem in error.problems
            )
        ) from error
    return whole.estimate, whole.run


def answer(body: Any) -> DiagnoseAnswer:
    """Answer a decoded JSON body.

    Raises:
        PlanError: if the message or the request is invalid, or the run is not replayed.
    """
    result = diagnosed(body)
    return diagnose_answer(result.diagnosis, result.body, result.imported)


@router.post(
    "/api/v1/diagnose",
    summary="Explain an out-of-memory error",
    responses={200: {"model": DiagnoseAnswer}, **problem_responses(*BODY_ERRORS)},
    openapi_extra=json_body(DiagnoseRequest),
)
def post_diagnose(body: JsonBody) -> Response:
    """Return which allocation of a run failed, what is alive there, and which single changes end the error.

    The run is replayed from the load to its second step. `matches` are the tensors whose segment PyTorch writes as the
    message does. If there are several, the bytes in use before each tell them apart: `same_allocated` states whether
    they are the message's. Each of `changes` is replayed on what the message leaves PyTorch.

    A request with `run`, as in `POST /api/v1/run`, has an evaluation or a merge too: `in_phases` are their tensors, and
    for a batch of the evaluation after how many it is requested. Where one of these is the most likely, `changes` are
    those of `run`.

    Messages of PyTorch 1.0 and later are read, within a whole log too. A message that is cut off, is not in English, or
    is another library's is answered with 422 and the reason.
    """
    return json_response(answer(body))


_MESSAGE = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.96 GiB. GPU 0 has a total capacity of 7.62 GiB of"
    " which 1.45 GiB is free. Including non-PyTorch memory, this process has 6.17 GiB memory in use. Of the allocated"
    " memory 5.61 GiB is allocated by PyTorch, and 236.00 MiB is reserved by PyTorch but unallocated."
)
_AXOLOTL = """\
base_model: meta-llama/Llama-3.2-1B
adapter: lora
lora_r: 16
lora_target_linear: true
sequence_len: 2048
micro_batch_size: 2
gradient_checkpointing: true
optimizer: adamw_torch
learning_rate: 2e-4
bf16: auto
"""
#: The run of that file. A second answer about the same run takes a tenth of the time.
_RUN = {
    "model": "meta-llama/Llama-3.2-1B",
    "method": {"name": "lora", "r": 16, "target_modules": "all-linear"},
    "training": {
        "trainer": "transformers",
        "autocast": "bfloat16",
        "micro_batch_size": 2,
        "sequence_length": 2048,
        "optimizer": "adamw_torch",
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
}

EXAMPLES = PostExamples(
    path="/api/v1/diagnose",
    request_model=DiagnoseRequest,
    requests={
        "request": ("A message and the request of its run", {"message": _MESSAGE, "request": _RUN}),
        "file": ("A message and an axolotl configuration", {"message": _MESSAGE, "content": _AXOLOTL}),
    },
    answer=answer,
)
