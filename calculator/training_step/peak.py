"""The peak of a phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from calculator.common.deferred import Deferred
    from calculator.common.names import PhaseName
    from calculator.engine.live_tensors import LiveTensors, StorageCounts
    from calculator.engine.recording import Recording
    from calculator.training_step.run import Run


class MicroBatchRun(NamedTuple):
    """An interpreted micro-batch, and its recording with every layer counted."""

    run: Run
    recording: Recording

    @property
    def marks(self) -> dict[str, int]:
        """The position of each mark."""
        return self.run.copies.marks


class Peak(NamedTuple):
    """The peak of a phase: its bytes, the bytes alive throughout the phase, and the operation at the peak.

    `left` is what the previous step left alive. `deferred` lists the live tensors when it is first read.
    """

    phase: PhaseName
    bytes: int
    throughout: int
    operation: str
    left: StorageCounts | None
    deferred: Deferred[LiveTensors]
    #: The micro-batch of the peak. None for the optimizer's step.
    micro_batch: MicroBatchRun | None = None

    @property
    def alive(self) -> LiveTensors:
        """All tensors alive at the peak."""
        return self.deferred()
