"""Single changes to a run that ended out of memory, each replayed with the memory of its device."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.devices import Verdict
from calculator.diagnosis.change import Change
from calculator.diagnosis.sharding_changes import sharding_changes
from calculator.planning.suggestions import suggestions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.devices.outcome import Outcome
    from calculator.estimation.answer import Estimate
    from calculator.estimation.request import Request

EXPANDABLE = "expandable_segments:True"

#: The sentence on the drawback of expandable segments, and its source.
_EXPANDABLE_STATEMENT = (
    "Segments grow where cached blocks are too small, so that less memory is reserved and unused. Nothing else changes."
)
_EXPANDABLE_SOURCE = "PyTorch, docs/source/notes/cuda.md: PYTORCH_CUDA_ALLOC_CONF, expandable_segments"


def changes(request: Request, answer: Estimate, outcome: Outcome, usable_bytes: int) -> tuple[Change, ...]:
    """Return single changes. Those that end the error come first, then those that save the most."""
    reproduces = outcome.verdict is Verdict.DOES_NOT_FIT
    suggested = [
        *_expandable_segments_changes(request, outcome, reproduces=reproduces),
        *sharding_changes(request, answer, usable_bytes, reproduces=reproduces),
    ]
    for suggestion in suggestions(request, answer):
        replay = suggestion.estimate.memory.replay
        assert replay is not None
        verdict = replay.outcome(usable_bytes).verdict
        suggested.append(
            Change(
                changes=suggestion.changes,
                request=suggestion.request,
                saved_bytes=suggestion.saved_bytes,
                verdict=verdict,
                ends=verdict is not Verdict.DOES_NOT_FIT if reproduces else None,
                statement=suggestion.rule.statement,
                source=suggestion.rule.source,
                cost=suggestion.cost,
            )
        )
    return tuple(sorted(suggested, key=lambda change: (not change.ends, -change.saved_bytes)))


def _expandable_segments_changes(request: Request, outcome: Outcome, *, reproduces: bool) -> Iterator[Change]:
    """Yield expandable segments, if they save memory."""
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
