"""Single changes to a run that ended out of memory, each replayed on what its device offered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from calculator.devices import Verdict
from calculator.planning.suggestions import suggestions

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from calculator.devices.outcome import Outcome
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request
    from calculator.inputs.run import RunSettings

EXPANDABLE = "expandable_segments:True"

#: What expandable segments give up, and the source of this.
_EXPANDABLE_STATEMENT = (
    "Segments grow where cached blocks are too small, so that less memory is reserved and unused. Nothing else changes."
)
_EXPANDABLE_SOURCE = "PyTorch, docs/source/notes/cuda.md: PYTORCH_CUDA_ALLOC_CONF, expandable_segments"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A change of a run.

    Attributes:
        changes: The settings, by their paths in the request.
        request: The request with them.
        run: The settings of the run with them, if they are some of these.
        saved_bytes: What it saves of the required memory; of expandable segments, of the least memory.
        verdict: How the changed run goes by replay where the error occurred.
        ends: Whether it ends the error; None where the run does not end by replay without it either.
        statement, source: What it gives up.
        cost: The cost of a step over that of the present one.
    """

    changes: Mapping[str, Any]
    request: Request
    saved_bytes: int
    verdict: Verdict
    ends: bool | None
    statement: str
    source: str
    cost: float
    run: RunSettings | None = None


def changes(request: Request, answer: Estimate, outcome: Outcome, usable_bytes: int) -> tuple[Change, ...]:
    """Single changes, those that end the error first, then by saving."""
    reproduces = outcome.verdict is Verdict.DOES_NOT_FIT
    found = [*_of_segments(request, outcome, reproduces=reproduces)]
    for each in suggestions(request, answer):
        replay = each.estimate.memory.replay
        assert replay is not None
        verdict = replay.outcome(usable_bytes).verdict
        found.append(
            Change(
                changes=each.changes,
                request=each.request,
                saved_bytes=each.saved_bytes,
                verdict=verdict,
                ends=verdict is not Verdict.DOES_NOT_FIT if reproduces else None,
                statement=each.rule.statement,
                source=each.rule.source,
                cost=each.cost,
            )
        )
    return tuple(sorted(found, key=lambda each: (not each.ends, -each.saved_bytes)))


def _of_segments(request: Request, outcome: Outcome, *, reproduces: bool) -> Iterator[Change]:
    """Expandable segments, where they save memory."""
    expandable = outcome.with_expandable_segments()
    if expandable is None:
        return
    saved = outcome.minimum_bytes() - expandable.minimum_bytes
    if saved > 0:
        given = request.device.alloc_conf
        conf = f"{given},{EXPANDABLE}" if given else EXPANDABLE
        yield Change(
            changes={"device.alloc_conf": conf},
            request=replace(request, device=replace(request.device, alloc_conf=conf)),
            saved_bytes=saved,
            verdict=expandable.verdict,
            ends=expandable.verdict is not Verdict.DOES_NOT_FIT if reproduces else None,
            statement=_EXPANDABLE_STATEMENT,
            source=_EXPANDABLE_SOURCE,
            cost=1.0,
        )
