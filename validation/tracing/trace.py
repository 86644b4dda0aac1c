"""The reference step, traced on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from validation.reference.build import built
from validation.reference.optimizers import on_meta
from validation.reference.step import Step
from validation.tracing.emulations import TOLD
from validation.tracing.shims import as_on_cuda, running

if TYPE_CHECKING:
    from calculator.common.names import PhaseName
    from calculator.estimate.request import Request
    from validation.tracing.ledger import Ledger, Storage


@dataclass(frozen=True, slots=True)
class Trace:
    """What one step allocated, in bytes, each storage rounded up to 512.

    `parameters` has `base`, `added`, `trainable` and `total`; `static` the components that stay, and the gradients of
    a whole step; `emulations` what did not run as on CUDA but was written out.
    """

    parameters: dict[str, int]
    static: dict[str, int]
    ledger: Ledger[PhaseName]
    emulations: tuple[str, ...]

    @property
    def phases(self) -> dict[PhaseName, int]:
        """The most bytes alive in each phase."""
        return {phase: peak.bytes for phase, peak in self.ledger.peaks.items()}

    @property
    def peak_op(self) -> dict[PhaseName, str]:
        """Where each phase's peak was reached."""
        return {phase: peak.op for phase, peak in self.ledger.peaks.items()}

    @property
    def peak_phase(self) -> PhaseName:
        """The phase of the step's peak; the first of equals."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def peak_allocated_bytes(self) -> int:
        """The most bytes alive in the step."""
        return max(self.phases.values())

    @property
    def events(self) -> list[int]:
        """Births and frees in order: a storage's number, or its complement where it is freed."""
        return self.ledger.events

    def alive_at_peak(self, phase: PhaseName | None = None) -> list[Storage]:
        """What is alive at a phase's peak (by default the step's), in the order of birth."""
        return list(self.ledger.alive(self.ledger.peaks[phase or self.peak_phase].event))


def trace(request: Request, *, before_2_14: bool = False) -> Trace:
    """Run the reference step of a request on the meta device and book every storage.

    `before_2_14` runs float32 attention with grouped keys and values as PyTorch before 2.14 does.

    Raises:
        PlanError: where the real stack refuses the request.
    """
    with as_on_cuda(before_2_14=before_2_14), on_meta():
        model = built(request)
        with running():
            step = Step(model, request)
            step.run()
    cast = (f"autocast to {request.training.autocast}: its casts written out",) if request.training.autocast else ()
    return Trace(parameters=model.parameters(), static=step.static(), ledger=step.ledger, emulations=TOLD + cast)
