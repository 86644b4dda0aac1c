"""A pass of `generate` in a step: its fullest moment, and its recording, made when it is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from calculator.engine.memory_curve import Moment
    from calculator.engine.recording import Recording
    from calculator.training_step.generation import PassPeak


class StepPass(NamedTuple):
    """One pass: the moment with the most bytes, the operation before it, and the peak of a recording, made when read.

    `smaller`: a pass that runs the same operations with fewer bytes alive at each of them, and no larger storage.
    `bound`: for each size in bytes, a number of storages of which no more are alive at once, if it is quickly found.
    `bytes_of_bound`: the number of sizes in the bound and the bytes of its storages, or more of both. With a limit,
    those of the sizes below it.
    """

    moment: Moment
    operation: str
    deferred: Deferred[PassPeak]
    bound: Deferred[Mapping[int, int]] | None = None
    bytes_of_bound: Callable[[int | None], tuple[int, int]] | None = None
    smaller: Deferred[StepPass] | None = None

    @classmethod
    def of(cls, peak: PassPeak) -> StepPass:
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
