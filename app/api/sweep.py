"""`POST /api/v1/sweep`: estimates for every combination of a grid."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from starlette.requests import Request

from app.api.answers.sweep import MEDIA_TYPES, Format, SweepRow, blocks, lines, row
from app.api.examples import RUN, PostExamples
from app.api.requests import SweepRequest
from app.api.responses import BODY_ERRORS, json_body, lines_of, problem_responses
from app.http.accept import preferred
from app.http.body_params import JsonBody
from app.service.metrics import ESTIMATES
from calculator.common.errors import refusal
from calculator.limit_search.sweep import answers, parse_sweep

router = APIRouter(tags=["Plans"])


def answer(body: Any) -> str:
    """Answer a decoded JSON body with the text of all rows.

    Raises:
        PlanError: if the request is invalid, whatever the grid contains.
    """
    sweep = parse_sweep(body)
    return "".join(lines(sweep.grid, map(row, answers(sweep)), "ndjson"))


@router.post(
    "/api/v1/sweep",
    summary="Estimate every combination of a grid",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "One row per point of the grid, in order.",
            "content": {
                MEDIA_TYPES["ndjson"]: {"schema": lines_of(SweepRow)},
                MEDIA_TYPES["csv"]: {"schema": {"type": "string"}},
            },
        },
        **problem_responses(*BODY_ERRORS),
    },
    openapi_extra=json_body(SweepRequest),
)
def post_sweep(request: Request, body: JsonBody) -> Response:
    """Vary fields of one request over lists of values, and stream one row per combination.

    NDJSON has one JSON object per line. CSV has the same figures in columns named by dotted path. A combination that is
    refused is a row with its `problems`. The computation stops when the client disconnects.
    """
    kind = _format(body, request)
    sweep = parse_sweep({key: body[key] for key in body if key != "format"} if isinstance(body, dict) else body)
    return StreamingResponse(
        blocks(lines(sweep.grid, _counted(map(row, answers(sweep))), kind)),
        media_type=MEDIA_TYPES[kind],
        headers={"Vary": "Accept"},
    )


def _counted(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for answered in rows:
        ESTIMATES.labels("/api/v1/sweep").inc()
        yield answered


def _format(body: Any, request: Request) -> Format:
    requested = body.get("format") if isinstance(body, dict) else None
    if requested is None:
        accepted = preferred(",".join(request.headers.getlist("accept")), MEDIA_TYPES.values())
        return next(kind for kind, media_type in MEDIA_TYPES.items() if media_type == accepted)
    for kind in MEDIA_TYPES:
        if requested == kind:
            return kind
    raise refusal("format", f"must be one of {', '.join(MEDIA_TYPES)}", requested)


EXAMPLES = PostExamples(
    path="/api/v1/sweep",
    request_model=SweepRequest,
    requests={
        "grid": (
            "LoRA at two sequence lengths and two ranks",
            {
                "request": {**RUN, "method": {"name": "lora", "target_modules": "all-linear"}},
                "grid": {"training.sequence_length": [1024, 2048], "method.r": [8, 64]},
            },
        ),
        "refused": (
            "Two methods with gradient checkpointing, one of which PEFT refuses",
            {"request": RUN, "grid": {"method.name": ["lora", "prefix"]}},
        ),
    },
    answer=answer,
    media_type=MEDIA_TYPES["ndjson"],
    line_model=SweepRow,
)
