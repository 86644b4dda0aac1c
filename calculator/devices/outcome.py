"""The outcome of a run on a device of limited memory, by replay. Its parts are computed when they are read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from calculator.common.names import PhaseName

if TYPE_CHECKING:
    from calculator.common.deferred import Deferred

#: A part of a run: the load, a phase of a training step, or a pass of `generate` for the prompt or for a later token.
ReplayPhase = Literal["load", "prefill", "decode"] | PhaseName


class Verdict(StrEnum):
    """An answer to "does it fit?"."""

    FITS = "fits"
    TIGHT = "tight"
    DOES_NOT_FIT = "does_not_fit"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfMemory:
    """Where a run fails with torch.OutOfMemoryError.

    Attributes:
        step: The training step or the pass of `generate`, counted from 1. 0 while the model is loaded.
        phase: The phase that runs then.
        tensor: The name of the tensor that is requested.
        requested_bytes: The size of its block.
        message: PyTorch's own text.
    """

    step: int
    phase: ReplayPhase
    tensor: str
    requested_bytes: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayResult:
    """The result of a run on a device.

    Attributes:
        retries: How often cached blocks are freed for a request, from the load to the steady state.
        retries_per_step: The retries in a step of the steady state, or the most in a pass of an answer.
        out_of_memory: Where the run fails. None if it reaches its steady state.
    """

    retries: int
    retries_per_step: int
    out_of_memory: OutOfMemory | None

    @property
    def verdict(self) -> Verdict:
        """The verdict: fits without a retry, tight with retries, does not fit if it runs out of memory."""
        if self.out_of_memory is not None:
            return Verdict.DOES_NOT_FIT
        return Verdict.TIGHT if self.retries else Verdict.FITS


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpandableSegments:
    """The outcome of the same run with expandable_segments:True."""

    verdict: Verdict
    retries_per_step: int
    minimum_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The verdict on a run and a device, and the details from a replay.

    Attributes:
        verdict: Whether the run fits.
        result: The retries of the replay, or where it runs out of memory.
        minimum_bytes: The smallest usable memory on which it was found to run, including the CUDA context.
        with_expandable_segments: The run with expandable segments. None if it fits without, or already has them.
        tensors_fit: Whether the live tensors and the CUDA context fit the device.
        generates: Whether the run is a call of `generate`, whose steps are passes that differ.
        has_history: Whether micro-batches differ. `result` is then that of the worst history.
    """

    verdict: Verdict
    result: Deferred[ReplayResult]
    minimum_bytes: Deferred[int]
    with_expandable_segments: Deferred[ExpandableSegments | None]
    tensors_fit: bool = True
    generates: bool = False
    has_history: bool = False
