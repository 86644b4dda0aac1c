"""Errors of the estimates: every committed measurement whose run a request describes completely."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from app.api.accuracy import results

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Labels of the measured statistics, in the order of the sentences.
STATISTICS = {
    "max_memory_allocated": "allocated peak",
    "memory_allocated": "allocated memory at a point of the step",
    "max_memory_reserved": "reserved peak",
    "nvidia_smi": "memory in nvidia-smi",
}

#: Protocols of runs that no estimate is for: they replace transformers' kernels, have another loss and no optimizer, or
#: train nothing.
OTHER_CODE = ("fast_kernels", "fast_kernels_and_fused_head", "logits", "mean_of_logits", "output_of_pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """The error of one figure: estimate divided by measurement, minus one."""

    method: str
    statistic: str
    #: Identifies the configuration: figures of the same run share it.
    configuration: str
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """A summary of the errors of one statistic."""

    statistic: str
    figures: int
    configurations: int
    lowest_error: float
    highest_error: float
    median_absolute_error: float


def residuals() -> tuple[Residual, ...]:
    """Return the errors of published measurements and of our own."""
    published = results.published()
    theirs = _published_residuals(published["rows"]) if published else ()
    ours = (residual for file in results.measured() for residual in _measured_residuals(file))
    return (*theirs, *ours)


def _published_residuals(rows: list[dict[str, Any]]) -> Iterator[Residual]:
    for row in rows:
        if row["expressed"] == "whole" and "error" in row and row.get("protocol") not in OTHER_CODE:
            run = [row["source"], row["request"], row.get("adjustments"), row.get("protocol")]
            yield Residual(
                method=row["method"],
                statistic=row["statistic"],
                configuration=json.dumps(run, sort_keys=True),
                error=row["error"],
            )


def _measured_residuals(file: dict[str, Any]) -> Iterator[Residual]:
    for step in file["steps"]:
        if step["measured"] is None:
            continue
        for statistic, (estimated, measured) in step_figures(step).items():
            if measured:
                yield Residual(
                    method=method_name(step["request"]["method"]),
                    statistic=statistic,
                    configuration=json.dumps([file["environment"]["device"], step["request"]], sort_keys=True),
                    error=round(estimated / measured - 1, 6),
                )


def step_figures(step: dict[str, Any]) -> dict[str, tuple[int, int | None]]:
    """Return the estimate and the measurement of a step for each statistic."""
    estimated, measured = step["predicted"], step["measured"]
    allocated = estimated["peak_allocated"] + estimated["library_workspace"]
    return {
        "max_memory_allocated": (allocated, measured["peak_allocated"]),
        "max_memory_reserved": (estimated["reserved_replay"], measured["peak_reserved"]),
        "nvidia_smi": (estimated["required"], measured["driver"]),
    }


def method_name(method: dict[str, Any]) -> str:
    """Return the name of a request's method. DoRA has its own name."""
    return "dora" if method.get("use_dora") else str(method["name"])


def errors_by_statistic(residuals: Iterable[Residual]) -> tuple[Errors, ...]:
    """Summarize the errors of each statistic that has any."""
    groups: dict[str, list[Residual]] = {statistic: [] for statistic in STATISTICS}
    for residual in residuals:
        groups[residual.statistic].append(residual)
    return tuple(_errors(statistic, group) for statistic, group in groups.items() if group)


def _errors(statistic: str, group: list[Residual]) -> Errors:
    errors = [residual.error for residual in group]
    return Errors(
        statistic=statistic,
        figures=len(group),
        configurations=len({residual.configuration for residual in group}),
        lowest_error=min(errors),
        highest_error=max(errors),
        median_absolute_error=round(median(map(abs, errors)), 6),
    )
