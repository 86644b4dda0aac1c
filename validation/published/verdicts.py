"""The verdicts on the GPUs of published runs, which all ran, and what the rule for reserved memory says instead.

A run that ran must not be answered `does_not_fit`. Process memory, which is reserved memory with or without the CUDA
context, is compared by both ways to compute it: the replay, and the rule that was the default before.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from functools import cache
from statistics import median
from typing import TYPE_CHECKING, Any

from calculator.estimation.estimate import estimate
from calculator.estimation.request import parse_request
from calculator.estimation.series import SeriesCache
from validation.published.fast_kernels import patched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from validation.published.measurement import Measurement, Protocol

#: The statistics of process memory: with the CUDA context, and without.
PROCESS_MEMORY = ("nvidia_smi", "max_memory_reserved")

#: A run is near its GPU's limit if it used, or needs at least, this share of what the GPU offers a process.
NEAR = 0.9


def run_verdict(measured: Measurement) -> dict[str, Any]:
    """Return the verdict on a run's own GPU, and its process memory by the rule; empty for runs without a GPU.

    A pass that trains nothing has none: its request is of a training step.
    """
    request = measured.run.request or {}
    if measured.run.protocol == "logits" or "gpu" not in request.get("device", {}) or measured.bytes is None:
        return {}
    verdict = dict(_verdict(json.dumps(request, sort_keys=True), measured.run.protocol))
    by_rule = verdict.pop("rule_bytes")
    return verdict | ({"rule_bytes": by_rule[measured.statistic]} if measured.statistic in PROCESS_MEMORY else {})


@cache
def _verdict(request: str, protocol: Protocol | None) -> dict[str, Any]:
    parsed = parse_request(json.loads(request))
    with patched(protocol):
        fit = estimate(parsed, SeriesCache()).fit
        memory = estimate(replace(parsed, reserved="rule"), SeriesCache()).memory
    assert fit is not None
    return {
        "verdict": str(fit.verdict),
        "usable_bytes": fit.usable_bytes,
        "minimum_bytes": fit.minimum_bytes,
        "retries_per_step": fit.retries_per_step,
        "rule_bytes": {"nvidia_smi": memory.required_bytes, "max_memory_reserved": memory.peak_reserved_bytes},
    }


def process_memory(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the errors of process memory by source and method, by replay and by rule."""
    groups: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["expressed"] == "whole" and row.get("rule_bytes"):
            groups[row["source"], "all"].append(row)
            groups[row["source"], row["method"]].append(row)
    return [
        {
            "source": source,
            "method": method,
            "figures": len(group),
            "replay": _errors([row["error"] for row in group]),
            "rule": _errors([round(row["rule_bytes"] / row["measured_bytes"] - 1, 6) for row in group]),
        }
        for (source, method), group in sorted(groups.items(), key=lambda item: (item[0][0], item[0][1] != "all", item))
    ]


def _errors(errors: list[float]) -> dict[str, float]:
    return {
        "median_absolute_error": round(median(map(abs, errors)), 6),
        "lowest_error": min(errors),
        "highest_error": max(errors),
    }


def near_limit(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the runs that were near their GPU's limit, one row of process memory each, the nearest first."""
    near = [row for row in rows if row.get("verdict") and _used_share(row) >= NEAR]
    return sorted(near, key=lambda row: (-_used_share(row), row["id"]))


def _used_share(row: dict[str, Any]) -> float:
    """Return the share of the GPU that a run used in process memory, or that it needs at least."""
    used = row["measured_bytes"] if row["statistic"] in PROCESS_MEMORY else 0
    return float(max(used, row.get("minimum_bytes") or 0) / row["usable_bytes"])


def counts(rows: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Return how many distinct runs, which all ran, have each verdict."""
    runs = {json.dumps(row["request"], sort_keys=True): row["verdict"] for row in rows if row.get("verdict")}
    return {name: sum(verdict == name for verdict in runs.values()) for name in ("fits", "tight", "does_not_fit")}
