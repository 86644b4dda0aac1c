"""The figures of a step.

They are cached with the step, which further requests share if they differ in the card alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.reserved_rule import by_rule
from calculator.estimation.answer import Phase
from calculator.estimation.ledger import components

if TYPE_CHECKING:
    from calculator.estimation.answer import Component
    from calculator.training_step.peak import Peak
    from calculator.training_step.step import TrainingStep


class StepFigures(NamedTuple):
    """The peaks of a step, and the tensors alive at the highest one."""

    peaks: tuple[Peak, ...]
    operation: str
    parts: tuple[Component, ...]
    phases: tuple[Phase, ...]


def figures_of(step: TrainingStep) -> StepFigures:
    """Return the figures of a step."""
    cached: StepFigures | None = step.known.get(StepFigures)
    if cached is None:
        peaks = step.every_peak()
        highest = max(peaks, key=lambda peak: peak.bytes)
        cached = step.known[StepFigures] = StepFigures(
            peaks=peaks,
            operation=highest.operation,
            parts=components(highest.alive),
            phases=tuple([Phase(name=peak.phase, peak_bytes=peak.bytes) for peak in peaks]),
        )
    return cached


def reserved_by_rule(step: TrainingStep, workspaces: tuple[int, ...]) -> int:
    """Return the rule's estimate of reserved memory, with the workspaces of a card."""
    cached: int | None = step.known.get(workspaces)
    if cached is None:
        cached = step.known[workspaces] = by_rule(step, workspaces)
    return cached
