"""The figures of a step.

They are cached with the step, which further requests share if they differ in the GPU alone.
"""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.reserved_rule import estimate_reserved
from calculator.common.deferred import Deferred
from calculator.common.garbage import without_collections
from calculator.estimation.answer import Phase
from calculator.estimation.ledger import components

if TYPE_CHECKING:
    from calculator.common.names import PhaseName
    from calculator.estimation.answer import Component
    from calculator.training_step.peak import Peak
    from calculator.training_step.step import TrainingStep


class StepFigures(NamedTuple):
    """The peaks of a step among which the highest one is, and the tensors alive there."""

    peaks: tuple[Peak, ...]
    phase: PhaseName
    operation: str
    parts: tuple[Component, ...]


def figures_of(step: TrainingStep) -> StepFigures:
    """Return the figures of a step."""
    cached: StepFigures | None = step.known.get(StepFigures)
    if cached is None:
        peaks = step.deciding_peaks()
        highest = max(peaks, key=attrgetter("bytes"))
        cached = step.known[StepFigures] = StepFigures(
            peaks=peaks, phase=highest.phase, operation=highest.operation, parts=components(highest.alive)
        )
    return cached


def phases(step: TrainingStep, peaks: tuple[Peak, ...]) -> Deferred[tuple[Phase, ...]]:
    """Return every phase, given the peaks among which the highest one is."""
    return Deferred(partial(_cached_phases, step, peaks))


@without_collections
def _cached_phases(step: TrainingStep, peaks: tuple[Peak, ...]) -> tuple[Phase, ...]:
    """Return the phases, which are cached with the step. They do not refer to it (see `timeline`)."""
    cached: tuple[Phase, ...] | None = step.known.get(Phase)
    if cached is None:
        every = step.with_generation(peaks)
        cached = step.known[Phase] = tuple([Phase(name=peak.phase, peak_bytes=peak.bytes) for peak in every])
    return cached


def reserved_by_rule(step: TrainingStep, workspaces: tuple[int, ...]) -> int:
    """Return the rule's estimate of reserved memory, with the workspaces of a GPU."""
    cached: int | None = step.known.get(workspaces)
    if cached is None:
        cached = step.known[workspaces] = estimate_reserved(step, workspaces)
    return cached
