"""A pass of `generate` in a step: its peak moment, and its recording, made when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.engine.memory_curve import Moment
    from calculator.engine.recording import Recording
    from calculator.training_step.generation import PassPeak


class StepPass(NamedTuple):
    """One pass: its peak moment, the operation at the peak, and its recording, which is made when it is read.

    `smaller`: a pass that runs the same operations with fewer live bytes at each of them, and no larger storage.
    `bound`: for each size in bytes, an upper bound on the number of live storages, if it is fast to compute.
    `bytes_of_bound`: upper bounds on the number of sizes in `bound`, and on the bytes of its storages. With a limit,
    only sizes below it count.
    """

    moment: Moment
    operation: str
    deferred: Deferred[PassPeak]
    bound: Deferred[Mapping[int, int]] | None = None
    bytes_of_bound: Callable[[int | None], tuple[int, int]] | None = None
    smaller: Deferred[StepPass] | None = None

    @classmethod
    def from_peak(cls, peak: PassPeak) -> StepPass:
        """Return a pass that was recorded."""
        return cls(peak.moment, peak.operation, Deferred(lambda: peak))

    @property
    def with_smaller(self) -> tuple[StepPass, ...]:
        """The smaller pass, which runs before it, and the pass itself."""
        return (self,) if self.smaller is None else (self.smaller(), self)

    @property
    def peak(self) -> PassPeak:
        """The peak of the recording."""
        return self.deferred()

    @property
    def recording(self) -> Recording:
        """The recording."""
        return self.peak.recording
