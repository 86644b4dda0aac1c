"""How far estimates were from measurements: every committed figure that a request says whole, with its error."""

from __future__ import annotations

import json
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from app.api.accuracy import results

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: What is measured, in words; in the order in which it is told.
STATISTICS = {
    "max_memory_allocated": "allocated peak",
    "memory_allocated": "allocated at a point of the step",
    "max_memory_reserved": "reserved peak",
    "nvidia_smi": "shown by nvidia-smi",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Residual:
    """One figure's error: the estimate over what was measured, less one. Equal configurations count as one."""

    method: str
    statistic: str
    configuration: str
    error: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """The errors of figures of one statistic."""

    statistic: str
    figures: int
    configurations: int
    lowest_error: float
    highest_error: float
    median_absolute_error: float


def residuals() -> tuple[Residual, ...]:
    """Every residual, of what others published and of what was measured by us."""
    published = results.published()
    theirs = _of_published(published["rows"]) if published else ()
    ours = (residual for file in results.measured() for residual in _of_steps(file))
    return (*theirs, *ours)


def _of_published(rows: list[dict[str, Any]]) -> Iterator[Residual]:
    for row in rows:
        if row["expressed"] == "whole" and "error" in row:
            said = [row["source"], row["request"], row.get("adjustments"), row.get("protocol")]
            yield Residual(
                method=row["method"],
                statistic=row["statistic"],
                configuration=json.dumps(said, sort_keys=True),
                error=row["error"],
            )


def _of_steps(file: dict[str, Any]) -> Iterator[Residual]:
    for step in file["steps"]:
        if step["measured"] is None:
            continue
        for statistic, (estimated, measured) in of_step(step).items():
            if measured:
                yield Residual(
                    method=named(step["request"]["method"]),
                    statistic=statistic,
                    configuration=json.dumps([file["environment"]["device"], step["request"]], sort_keys=True),
                    error=round(estimated / measured - 1, 6),
                )


def of_step(step: dict[str, Any]) -> dict[str, tuple[int, int | None]]:
    """A measured step's figures, estimated and measured, by statistic."""
    estimated, measured = step["predicted"], step["measured"]
    allocated = estimated["peak_allocated"] + estimated["library_workspace"]
    return {
        "max_memory_allocated": (allocated, measured["peak_allocated"]),
        "max_memory_reserved": (estimated["reserved_replay"], measured["peak_reserved"]),
        "nvidia_smi": (estimated["required"], measured["driver"]),
    }


def named(method: dict[str, Any]) -> str:
    """A method of a request; DoRA goes by its own name."""
    return "dora" if method.get("use_dora") else str(method["name"])


def by_statistic(measured: Iterable[Residual]) -> tuple[Errors, ...]:
    """The errors of each statistic that has any."""
    groups: dict[str, list[Residual]] = {statistic: [] for statistic in STATISTICS}
    for residual in measured:
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
