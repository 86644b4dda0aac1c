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
    """An interpreted micro-batch, its recording with every layer counted, and the peaks of skipped passes.

    These are positions, each with the bytes that are alive in a pass there. Lower ones may be missing.
    """

    run: Run
    recording: Recording
    passes: tuple[tuple[int, int], ...] = ()

    @property
    def marks(self) -> dict[str, int]:
        """The position of each mark."""
        return self.run.copies.marks

    @property
    def has_first_layer(self) -> bool:
        """Whether the first layer is interpreted, with a gradient of its input only if it has one."""
        return self.recording.first is None and not self.run.copies.bounds_first

    @property
    def peak_of_first_layer(self) -> int:
        """The most bytes alive from the beginning of the first layer's backward pass on, if it is derived."""
        known = self.run.first_backward and self.run.first_backward.peak(self.recording)
        assert known is not None, "it is derived if every layer is shown"
        return known

    def most_skipped_bytes(self, start: int, end: int) -> int:
        """Return the most bytes alive in a skipped pass between two positions. 0 if there is none."""
        return max([size for at, size in self.passes if start <= at <= end], default=0)


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
    #: Whether it is the peak of a pass that is not interpreted. Its operation and its tensors are not known then.
    is_skipped: bool = False

    @property
    def alive(self) -> LiveTensors:
        """All tensors alive at the peak."""
        return self.deferred()
