"""The answer about a whole run, which the page, the JSON API and the command line all show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from calculator.devices import Fit, Verdict
    from calculator.estimation.answer import Estimate, Row
    from calculator.inputs.run import RunSettings
    from calculator.run.time import RunTime

RunPhaseName = Literal["load", "first_step", "training_step", "evaluation", "generation", "checkpoint", "merge"]

#: The kinds of memory that a phase can run out of.
Resource = Literal["gpu", "host", "disk"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPhase:
    """A phase of a run.

    Attributes:
        gpu_bytes: The bytes of live tensors at its peak. Each tensor is rounded up to 512 bytes.
        operation: The operation at the peak.
        required_bytes: Reserved memory and the CUDA context.
        resident_bytes: The part of `gpu_bytes` that exists before the phase: weights, states, the last batch.
        rows: The tensors that it adds at its peak.
        host_bytes: The bytes that it adds to the process's resident set (RSS). The least if `host_kept_bytes` is not 0.
        host_kept_bytes: The bytes of freed tensors that glibc's malloc may keep in addition.
        host_file_bytes: The part of `host_bytes` that is mapped files, which the system can drop.
        host: Where `host_bytes` come from.
        disk_bytes: The bytes on the disk when the phase ends, or the most during the phase.
        fit: The verdict on the GPU.
        ends_by: What the phase runs out of. None if the run does not end in it.
        may_end_by: The host if it has too little memory for what malloc may keep, else None.
    """

    name: RunPhaseName
    gpu_bytes: int
    operation: str
    required_bytes: int
    resident_bytes: int
    rows: tuple[Row, ...] = ()
    host_bytes: int = 0
    host_kept_bytes: int = 0
    host_file_bytes: int = 0
    host: str = ""
    disk_bytes: int = 0
    fit: Fit | None = None
    ends_by: Resource | None = None
    may_end_by: Resource | None = None

    @property
    def host_high_bytes(self) -> int:
        """The most that it adds to the process's resident set."""
        return self.host_bytes + self.host_kept_bytes

    @property
    def needed_host_bytes(self) -> int:
        """The host memory that cannot be dropped."""
        return self.host_bytes - self.host_file_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class UnansweredPhase:
    """A phase of the run that has no figures, and why."""

    name: RunPhaseName
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedFile:
    """A file of a checkpoint, or of the merged model."""

    name: str
    bytes: int
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WholeRun:
    """The answer: every phase in order, the files of a checkpoint, the verdict and the time.

    The verdict is that of `phases`. Those in `unanswered` have no figures. `time` is None if the speed is not known.
    `time_refusal` then says why.
    """

    estimate: Estimate
    run: RunSettings
    phases: tuple[RunPhase, ...]
    unanswered: tuple[UnansweredPhase, ...]
    files: tuple[SavedFile, ...]
    merged_files: tuple[SavedFile, ...]
    verdict: Verdict | None
    time: RunTime | None
    time_refusal: str
    assumptions: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ended_in(self) -> RunPhase | None:
        """The phase that ends the run, if one does."""
        return next((phase for phase in self.phases if phase.ends_by), None)

    @property
    def checkpoint_bytes(self) -> int:
        """The size of one checkpoint."""
        return sum(file.bytes for file in self.files)
