"""What the API takes and answers where it is asked for the largest value that fits."""

from typing import Any

from pydantic import Field, create_model

from app.api.answers.estimate import Answer, EstimateAnswer, described
from app.api.schema import EstimateRequest
from calculator.common.names import PhaseName
from calculator.devices import Verdict
from calculator.estimate.request import Request
from calculator.limits.bounds import BoundedBy, SolveFor, solvable
from calculator.limits.limits import Limit, LimitRequest, limit
from calculator.limits.probes import ProbeResult

#: The input beside an estimate's: its type, and what is told of it.
SOLVE_FOR: tuple[Any, Any] = (
    SolveFor,
    Field(
        title="Solve for",
        description="The setting whose largest value is asked for; what the request says of it is tried like others.",
        examples=["r"],
    ),
)

LimitsRequest = create_model(
    "LimitsRequest",
    __base__=EstimateRequest,
    __doc__="A plan with its device, and the setting of it that may grow.",
    solve_for=SOLVE_FOR,
)


class LimitBound(Answer):
    """What can't be passed."""

    by: BoundedBy = described(
        "The card's memory, the model's context length, a matrix's smaller side, or the field.", "memory"
    )
    limit: int = described(
        "How far it goes: bytes of memory that the card offers, else a value of the setting.", 25_250_758_656
    )
    reason: str = described("The same in words.", "1,065 would require more bytes than the card offers")


class LimitPoint(Answer):
    """The plan with one value of the setting."""

    value: int = described("The setting's value.", 1064)
    verdict: Verdict = described("Whether the plan fits with it.", "fits")
    headroom_bytes: int = described("Usable less required; negative where it does not fit.", 281_018_368)
    peak_phase: PhaseName = described("The part of the step that the peak is in.", "backward")
    peak_allocated_bytes: int = described("The live tensors at the peak, each rounded up to 512 bytes.", 22_341_251_584)
    peak_reserved_bytes: int = described(
        "What torch.cuda.max_memory_reserved() reads, workspaces included.", 24_640_607_744
    )
    required_bytes: int = described("Reserved memory and the CUDA context: what nvidia-smi shows.", 24_969_740_288)


class LimitsAnswer(Answer):
    """The largest value that fits, and what bounds it."""

    solve_for: SolveFor = described("The setting that was solved for.", "r")
    value: int | None = described("Its largest value that fits the device; null where none does.", 1064)
    bound: LimitBound = described("What bounds it.", {"by": "memory"})
    at: LimitPoint | None = described("The plan there; null where no value fits.", {"value": 1064})
    above: LimitPoint | None = described(
        "The plan one step above, or with the smallest value where none fits; null where that is refused.",
        {"value": 1065},
    )
    guarantee: str = described("What was tried, and what follows.", "1,064 fits and 1,065 does not.")
    warnings: tuple[str, ...] = described("What a value of that size means.", [])
    estimate: EstimateAnswer | None = described("The whole estimate at the value; null where none fits.", {"fit": None})


def limits_of(request: Request) -> tuple[Limit, ...]:
    """The limit of every setting that a plan can be solved for.

    Raises:
        PlanError: where it names no device, or the real stack refuses the combination.
    """
    return tuple(limit(LimitRequest(request=request, solve_for=name)) for name in solvable(request.method))


def answer_of(found: Limit) -> LimitsAnswer:
    """A limit as the API answers it."""
    return LimitsAnswer.model_validate(
        {
            "solve_for": found.solve_for,
            "value": found.value,
            "bound": found.bound,
            "at": _point(found.at),
            "above": _point(found.above),
            "guarantee": found.guarantee,
            "warnings": found.warnings,
            "estimate": found.at.estimate if found.at else None,
        },
        from_attributes=True,
    )


def _point(point: ProbeResult | None) -> dict[str, Any] | None:
    if point is None:
        return None
    fit, memory = point.estimate.fit, point.estimate.memory
    assert fit is not None
    return {
        "value": point.value,
        "verdict": fit.verdict,
        "headroom_bytes": fit.headroom_bytes,
        "peak_phase": memory.peak_phase,
        "peak_allocated_bytes": memory.peak_allocated_bytes,
        "peak_reserved_bytes": memory.peak_reserved_bytes,
        "required_bytes": memory.required_bytes,
    }
