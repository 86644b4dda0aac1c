"""The peak of a phase."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections import Counter

    from calculator.common.deferred import Deferred
    from calculator.common.names import PhaseName
    from calculator.engine.live_tensors import LiveTensors
    from calculator.engine.tape import Allocation


class Peak(NamedTuple):
    """A phase's peak: the bytes alive, how many of them are alive throughout the phase, and the operation that ran.

    `left` is what the previous step left alive. `deferred` lists everything that is alive when it is first read.
    """

    phase: PhaseName
    bytes: int
    throughout: int
    operation: str
    left: Counter[Allocation]
    deferred: Deferred[LiveTensors]

    @property
    def alive(self) -> LiveTensors:
        """Everything alive at the peak."""
        return self.deferred()
