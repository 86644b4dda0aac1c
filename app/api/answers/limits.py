"""Answer of `POST /api/v1/limits`: the largest value of a setting that fits, or the fewest GPUs."""

from typing import Any

from app.api.answers.answer import Answer, described
from app.api.answers.estimate import SingleEstimateAnswer
from calculator.common.names import PhaseName
from calculator.devices import Verdict
from calculator.limit_search.bounds import BoundedBy, SolveFor
from calculator.limit_search.limit import Limit
from calculator.limit_search.probes import ProbeResult


class LimitBound(Answer):
    """What prevents a larger value; of `count`, a smaller one."""

    by: BoundedBy = described(
        "The device's memory, the model's context length, a matrix's smaller side, the field's own maximum, or the"
        " fewest GPUs that the sharding needs.",
        "memory",
    )
    limit: int = described(
        "The bound: usable bytes if memory is the bound, else a value of the setting.", 25_250_758_656
    )
    reason: str = described(
        "An explanation.", "1,065 would require 12.00 MiB more than the 23.52 GiB that the GPU offers"
    )


class LimitPoint(Answer):
    """The run with one value of the setting."""

    value: int = described("The value of the setting.", 1064)
    verdict: Verdict = described("Whether the run fits.", "fits")
    headroom_bytes: int = described("Usable bytes minus required_bytes; negative if the run does not fit.", 281_018_368)
    peak_phase: PhaseName = described("The phase in which the step peaks.", "backward")
    peak_allocated_bytes: int = described(
        "The live tensors at the peak; each is rounded up to a multiple of 512 bytes.", 22_341_251_584
    )
    peak_reserved_bytes: int = described(
        "What torch.cuda.max_memory_reserved() reads, workspaces included.", 24_640_607_744
    )
    required_bytes: int = described("Reserved memory plus the CUDA context: what nvidia-smi shows.", 24_969_740_288)


class LimitsAnswer(Answer):
    """The largest value of the setting that fits, or the fewest GPUs, and what bounds it."""

    solve_for: SolveFor = described("The setting that was solved for.", "r")
    value: int | None = described(
        "The largest value that fits the device: the run never frees cached blocks for a request. For count, the"
        " smallest such value. Null if none fits.",
        1064,
    )
    largest_with_retries: int | None = described(
        "The largest value found that runs, even if PyTorch's allocator must free cached blocks and request memory"
        " again: the run is tight above value. Null if none runs, by the rule, or for count.",
        1080,
    )
    bound: LimitBound = described(
        "Why no larger value is possible; for count, why no smaller one is, or why no number of GPUs fits.",
        {"by": "memory"},
    )
    at: LimitPoint | None = described("The run with that value; null if no value fits.", {"value": 1064})
    above: LimitPoint | None = described(
        "The run with the next larger value, or with the smallest value if none fits; null if that run is refused, and"
        " for count.",
        {"value": 1065},
    )
    below: LimitPoint | None = described(
        "For count, the run on one GPU fewer, or the run that requires the least of each GPU if no number fits; null if"
        " the sharding needs as many GPUs, and for other settings.",
        {"value": 11},
    )
    guarantee: str = described("Which values were evaluated, and what follows.", "1,064 fits and 1,065 does not.")
    warnings: tuple[str, ...] = described("Risks of a value of this size.", [])
    estimate: SingleEstimateAnswer | None = described(
        "The full estimate at that value; null if none fits.", {"fit": None}
    )


def limits_answer(limit: Limit) -> LimitsAnswer:
    """Convert a limit to the API's answer."""
    return LimitsAnswer.model_validate(
        {
            "solve_for": limit.solve_for,
            "value": limit.value,
            "largest_with_retries": limit.largest_with_retries,
            "bound": limit.bound,
            "at": _point(limit.at),
            "above": _point(limit.above),
            "below": _point(limit.below),
            "guarantee": limit.guarantee,
            "warnings": limit.warnings,
            "estimate": limit.at.estimate if limit.at else None,
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
