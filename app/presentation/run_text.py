"""A whole run in words, for the page, the JSON API and the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.presentation.format import gib
from calculator.devices import Verdict

if TYPE_CHECKING:
    from calculator.run.answer import Resource, RunPhase, RunPhaseName, WholeRun

#: The phases in words, and the same in the middle of a sentence.
PHASES: dict[RunPhaseName, str] = {
    "load": "Loading",
    "first_step": "First step",
    "training_step": "Training step",
    "evaluation": "Evaluation",
    "generation": "Generation in evaluation",
    "checkpoint": "Checkpoint",
    "merge": "Merge",
}
IN_SENTENCE: dict[RunPhaseName, str] = {
    "load": "while the model is loaded",
    "first_step": "in its first step",
    "training_step": "in a training step",
    "evaluation": "in the evaluation",
    "generation": "in the evaluation, while it generates",
    "checkpoint": "when it saves a checkpoint",
    "merge": "when the adapter is merged",
}
_RESOURCES: dict[Resource, str] = {"gpu": "GPU memory", "host": "host memory", "disk": "disk space"}


def model_name(run: WholeRun) -> str:
    """Return the model's id, or its type."""
    return run.estimate.model.id or run.estimate.model.model_type or "a model"


def title(run: WholeRun) -> str:
    """Return the title of the page."""
    return f"The whole run: {run.estimate.method.label} of {model_name(run)}"


def sentence(run: WholeRun) -> str:
    """Return the verdict as a sentence that names the phase."""
    ended = run.ended_in
    if ended is not None:
        assert ended.ends_by is not None
        ends = f"The run ends {IN_SENTENCE[ended.name]}: it runs out of {_RESOURCES[ended.ends_by]}. {_needs(ended)}"
        return f"{ends}{_way_out(run, ended)}"
    highest = max(run.phases, key=lambda phase: phase.required_bytes)
    most = f"The most GPU memory is needed {IN_SENTENCE[highest.name]}: {gib(highest.required_bytes):,.2f} GiB."
    if run.verdict is None:
        return most
    every = "Every phase with figures" if run.unanswered else "Every phase"
    return f"{every} {'fits' if run.verdict is Verdict.FITS else 'runs, but one is tight'}. {most}"


def _way_out(run: WholeRun, ended: RunPhase) -> str:
    """Return which settings of an evaluation that runs out of GPU memory need less. Empty for other phases."""
    settings = run.run
    if ended.name not in {"evaluation", "generation"} or ended.ends_by != "gpu":
        return ""
    gathers = settings.compute_metrics and not settings.prediction_loss_only and not settings.eval_accumulation_steps
    moves = " eval_accumulation_steps moves gathered outputs to host memory." if gathers else ""
    batch = settings.per_device_eval_batch_size
    fewer = (
        f" With fewer than {batch:,} rows per batch (per_device_eval_batch_size) it needs less." if batch > 1 else ""
    )
    return f"{fewer}{moves}"


def _needs(phase: RunPhase) -> str:
    if phase.ends_by == "host":
        return f"It needs {gib(phase.needed_host_bytes):,.2f} GiB."
    if phase.ends_by == "disk":
        return f"It needs {gib(phase.disk_bytes):,.2f} GiB."
    assert phase.fit is not None
    usable = gib(phase.fit.usable_bytes)
    return f"It needs {gib(phase.required_bytes):,.2f} GiB, and a process can use {usable:,.2f} GiB."


def size(count: int) -> str:
    """Return a size in GiB, or a dash for none."""
    return f"{gib(count):,.2f}" if count else "–"


def host_size(phase: RunPhase) -> str:
    """Return the host memory in GiB: an interval where malloc may keep what is freed."""
    if not phase.host_kept_bytes:
        return size(phase.host_bytes)
    return f"{size(phase.host_bytes)} to {size(phase.host_high_bytes)}"


def verdict_of(phase: RunPhase) -> str:
    """Return the verdict on a phase in words."""
    if phase.ends_by is not None:
        return f"ends the run: {_RESOURCES[phase.ends_by]}"
    if phase.may_end_by is not None:
        return f"may run out of {_RESOURCES[phase.may_end_by]}"
    if phase.fit is None:
        return "–"
    return {Verdict.FITS: "fits", Verdict.TIGHT: "tight", Verdict.DOES_NOT_FIT: "does not fit"}[phase.fit.verdict]
