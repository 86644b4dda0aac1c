"""`POST /api/v1/sweep`: a grid of plans, in order."""

from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, Field
from starlette.requests import Request

from app.api.answers.estimate import Answer, described
from app.api.answers.sweep import MEDIA_TYPES, Format, gathered, lines
from app.api.examples import PLAN, Posted
from app.api.responses import REFUSALS, problems_of, takes
from app.api.schema import STRICT
from app.http.accept import preferred
from app.http.body_params import JsonBody
from app.http.problems import ProblemError
from calculator.common.errors import refusal
from calculator.common.names import PhaseName
from calculator.devices import Verdict
from calculator.limits.sweep import MOST_POINTS, Sweep, answers, parse_sweep

router = APIRouter(tags=["Plans"])


class SweepRequest(BaseModel):
    """One request, and lists of values for any of its fields."""

    model_config = STRICT

    request: dict[str, Any] = Field(
        description="An estimate's request; what the grid gives may be left out of it.",
        examples=[{"model": "meta-llama/Llama-3.1-8B", "method": {"name": "lora"}}],
    )
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        min_length=1,
        description=f"Values for fields of the request, by dotted path; every combination is a point, at most"
        f" {MOST_POINTS:,} of them. The last field's values change fastest.",
        examples=[{"training.sequence_length": [1024, 2048], "method.r": [8, 16]}],
    )
    format: Format | None = Field(
        default=None,
        description="How the rows come; left out, as the Accept header says, else NDJSON.",
        examples=["csv"],
    )


class SweptParameters(Answer):
    """How many parameters there are and are trained."""

    base: int = described("Parameters of the base model.", 8_030_261_248)
    added: int = described("Parameters that the method adds.", 41_943_040)
    trainable: int = described("Parameters that are trained.", 41_943_040)
    total: int = described("Base and added together.", 8_072_204_288)
    trainable_fraction: float = described("The share of all parameters that is trained, 0 to 1.", 0.005196)


class SweptMemory(Answer):
    """The memory of an estimate without its storages; whole bytes."""

    peak_phase: PhaseName = described("The part of the step that the peak is in.", "backward")
    peak_operation: str = described("What runs at the peak.", "cross_entropy")
    peak_allocated_bytes: int = described("The live tensors at the peak, each rounded up to 512 bytes.", 9_341_251_584)
    library_workspace_bytes: int = described("What cuBLAS keeps, which max_memory_allocated counts too.", 17_039_360)
    peak_reserved_bytes: int = described(
        "What torch.cuda.max_memory_reserved() reads, workspaces included.", 9_640_607_744
    )
    required_bytes: int = described("Reserved memory and the CUDA context: what nvidia-smi shows.", 10_087_301_120)


class SweptFit(Answer):
    """The plan held against the device."""

    usable_bytes: int = described("The memory that a process can use on the card.", 25_250_758_656)
    verdict: Verdict = described("Whether it fits; tight where that depends on fragmentation.", "fits")
    headroom_bytes: int = described("Usable less required; negative where it does not fit.", 15_163_457_536)
    gpus_needed: int = described(
        "A lower bound on the number of such cards. More than one takes sharding: without it, each needs all of it.", 1
    )


class SweepRow(Answer):
    """A point of the grid, a line of the answer."""

    point: dict[str, Any] = described("The values of the grid's fields.", {"method.r": 8})
    parameters: SweptParameters | None = described(
        "Parameters; null where the point is refused.", {"added": 41_943_040}
    )
    memory: SweptMemory | None = described(
        "Memory; null where the point is refused.", {"required_bytes": 10_087_301_120}
    )
    fit: SweptFit | None = described(
        "The verdict; null where the point is refused or names no device.", {"verdict": "fits"}
    )
    problems: tuple[ProblemError, ...] = described("Why the point is refused; empty where it is not.", [])


def answered(body: Any) -> str:
    """The rows of a small grid, as they are sent.

    Raises:
        PlanError: where the request is wrong, whatever its grid says.
    """
    return "".join(_rows(parse_sweep(body), "ndjson"))


def _rows(sweep: Sweep, kind: Format) -> Iterator[str]:
    return lines(sweep.grid, answers(sweep), kind)


@router.post(
    "/api/v1/sweep",
    summary="A grid of plans",
    response_class=StreamingResponse,
    responses={
        200: {
            "description": "A row a point, in order.",
            "content": {
                MEDIA_TYPES["ndjson"]: {"schema": {"$ref": f"#/components/schemas/{SweepRow.__name__}"}},
                MEDIA_TYPES["csv"]: {"schema": {"type": "string"}},
            },
        },
        **problems_of(*REFUSALS),
    },
    openapi_extra=takes(SweepRequest),
)
def post_sweep(request: Request, body: JsonBody) -> Response:
    """Read a plan and lists of values for its fields, answer with a row for each combination, as they are found.

    NDJSON has a JSON object a line; CSV has the same figures under their dotted names. A point that is refused is a row
    with its problems. Nothing more is computed once the client has gone.
    """
    kind = _format(body, request)
    sweep = parse_sweep({key: body[key] for key in body if key != "format"} if isinstance(body, dict) else body)
    return StreamingResponse(gathered(_rows(sweep, kind)), media_type=MEDIA_TYPES[kind], headers={"Vary": "Accept"})


def _format(body: Any, request: Request) -> Format:
    asked = body.get("format") if isinstance(body, dict) else None
    if asked is None:
        rather = preferred(",".join(request.headers.getlist("accept")), MEDIA_TYPES.values())
        return next(kind for kind, named in MEDIA_TYPES.items() if named == rather)
    for kind in MEDIA_TYPES:
        if asked == kind:
            return kind
    raise refusal("format", f"must be one of {', '.join(MEDIA_TYPES)}", asked)


POSTED = Posted(
    path="/api/v1/sweep",
    takes=SweepRequest,
    requests={
        "grid": (
            "Two lengths and two ranks of LoRA",
            {
                "request": {**PLAN, "method": {"name": "lora", "target_modules": "all-linear"}},
                "grid": {"training.sequence_length": [1024, 2048], "method.r": [8, 64]},
            },
        ),
        "refused": (
            "Methods with checkpointing, of which PEFT refuses one",
            {"request": PLAN, "grid": {"method.name": ["lora", "prefix"]}},
        ),
    },
    answered=answered,
    media_type=MEDIA_TYPES["ndjson"],
    line=SweepRow,
)
