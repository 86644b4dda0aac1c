"""A trace of the reference step on the meta device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from validation.reference.build import build_model
from validation.reference.optimizers import optimizers_on_meta
from validation.tracing.emulations import EMULATIONS
from validation.tracing.shims import emulate_cuda, patched_model_code
from validation.tracing.step import Step

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.common.names import PhaseName
    from calculator.estimation.request import Request
    from validation.reference.build import ReferenceModel
    from validation.tracing.host_values import HostValues
    from validation.tracing.ledger import Ledger, Storage


@dataclass(frozen=True, slots=True)
class Trace:
    """The allocations of one step, in bytes, each storage rounded up to 512.

    `parameters` has the counts `base`, `added`, `trainable` and `total`. `static` has the components that stay through
    the step, and its gradients. `emulations` describes the kernels that the trace emulates. `resident` is what is alive
    between steps of a sharded run, in bytes. `pinned` has the most bytes of pinned host memory for activations.
    """

    parameters: dict[str, int]
    static: dict[str, int]
    ledger: Ledger[PhaseName]
    emulations: tuple[str, ...]
    resident: int | None = None
    pinned: int | None = None

    @property
    def phases(self) -> dict[PhaseName, int]:
        """The most bytes alive in each phase."""
        return {phase: peak.bytes for phase, peak in self.ledger.peaks.items()}

    @property
    def peak_op(self) -> dict[PhaseName, str]:
        """The operation that reached each phase's peak."""
        return {phase: peak.op for phase, peak in self.ledger.peaks.items()}

    @property
    def peak_phase(self) -> PhaseName:
        """The phase of the step's peak; the first one of a tie."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def peak_allocated_bytes(self) -> int:
        """The most bytes alive in the step."""
        return max(self.phases.values())

    @property
    def events(self) -> list[int]:
        """Allocations and frees in order: a storage's number, or its complement when it is freed."""
        return self.ledger.events

    def alive_at_peak(self, phase: PhaseName | None = None) -> list[Storage]:
        """Return the storages alive at a phase's peak (by default the step's), in the order of allocation."""
        return list(self.ledger.alive_after(self.ledger.peaks[phase or self.peak_phase].event))


def trace(request: Request, *, before_2_14: bool = False) -> Trace:
    """Run the reference step of a request on the meta device and record every storage.

    `before_2_14` runs float32 attention with grouped keys and values as PyTorch before 2.14 does.

    Raises:
        PlanError: if transformers or PEFT refuses the request.
    """
    return trace_and_model(request, before_2_14=before_2_14)[0]


def trace_and_model(
    request: Request,
    *,
    before_2_14: bool = False,
    values: HostValues | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Trace, ReferenceModel]:
    """As `trace`, with the model that ran.

    `values` computes known values; by default, only the largest position is known. `progress` is called with what runs.

    Raises:
        PlanError: if transformers or PEFT refuses the request.
    """
    targets = request.task == "seq_2_seq_lm"
    with (
        emulate_cuda(before_2_14=before_2_14, causal_masks_of_ones=targets),
        optimizers_on_meta(request.training.optimizer),
    ):
        progress("building the model")
        reference = build_model(request)
        with patched_model_code():
            step = Step(reference, request, values)
            progress("tracing a training step")
            step.run()
    cast = (f"autocast to {request.training.autocast}: its casts written out",) if request.training.autocast else ()
    traced = Trace(
        parameters=reference.parameter_counts(), static=step.static(), ledger=step.ledger, emulations=EMULATIONS + cast
    )
    return traced, reference
