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
    """A phase's peak: the bytes alive, how many of them are alive throughout the phase, and the operation that ran.

    `left` is what the previous step left alive. `deferred` lists everything that is alive when it is first read.
    """

    phase: PhaseName
    bytes: int
    throughout: int
    operation: str
    left: StorageCounts | None
    deferred: Deferred[LiveTensors]
    #: The micro-batch that it is in; None for the optimizer's step.
    micro_batch: MicroBatchRun | None = None

    @property
    def alive(self) -> LiveTensors:
        """Everything alive at the peak."""
        return self.deferred()
