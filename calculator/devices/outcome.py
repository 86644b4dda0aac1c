"""What a run does on a device of limited memory, by replay. The parts are computed when they are read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from calculator.common.names import PhaseName

if TYPE_CHECKING:
    from calculator.common.deferred import Deferred

#: A part of a run: the load, a phase of a training step, or a pass of `generate`: the prompt's or a later token's.
ReplayPhase = Literal["load", "prefill", "decode"] | PhaseName


class Verdict(StrEnum):
    """An answer to "does it fit?"."""

    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does_not_fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Where a run ends with torch.OutOfMemoryError.

    Attributes:
        step: The training step or the pass of `generate`, from 1; 0 while the model is loaded.
        phase: What runs then.
        tensor: The name of the tensor that is requested.
        requested_bytes: Its block.
        message: PyTorch's own text.
    """

    step: int
    phase: ReplayPhase
    tensor: str
    requested_bytes: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """The result of a run on a device.

    Attributes:
        retries: How often cached blocks are freed for a request, from the load to the steady state.
        retries_per_step: The same in a step of the steady state; of an answer's passes, the most in one.
        out_of_memory: Where the run ends, if it does not reach its steady state.
    """

    retries: int
    retries_per_step: int
    out_of_memory: OutOfMemory | None

    @property
    def verdict(self) -> Verdict:
        """Fits without a retry, tight with one, does not fit out of memory."""
        if self.out_of_memory is not None:
            return Verdict.DOES_NOT_FIT
        return Verdict.TIGHT if self.retries else Verdict.FITS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpandableSegments:
    """The same run with expandable_segments:True."""

    verdict: Verdict
    retries_per_step: int
    minimum_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The verdict on a run and a device, and what a replay tells about it.

    Attributes:
        verdict: Whether the run fits.
        course: How it goes.
        minimum_bytes: The smallest usable memory on which it was found to run, CUDA context included.
        with_expandable_segments: The run with expandable segments; None where it fits without, or has them already.
        tensors_fit: Whether what is alive at once, the CUDA context included, is no more than the device offers.
        passes: Whether the run is an answer of `generate`, whose steps are passes that differ.
        drawn: Whether micro-batches differ: the course is that of the worst history, and all of it is replayed.
    """

    verdict: Verdict
    course: Deferred[Course]
    minimum_bytes: Deferred[int]
    with_expandable_segments: Deferred[ExpandableSegments | None]
    tensors_fit: bool = True
    passes: bool = False
    drawn: bool = False
