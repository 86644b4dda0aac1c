"""Tests of a verdict: a run with the process's memory capped above, close to and below what it needs.

The caps are what the rule reserves, on which the run must go through; a little more than the least on which its replay
does, with the retries that the replay counts; and 1 % below the live tensors with the libraries' workspaces, on which
no allocator can place what is alive.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from calculator.estimation.estimate import device_replay, estimate, training_step
from calculator.estimation.history_replay import Histories
from calculator.estimation.sample_lengths import with_longest_batch
from calculator.estimation.series import SeriesCache
from validation.measure.history import played, worst
from validation.measure.meter import counts, free_workspaces
from validation.measure.step import ran

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request
    from validation.measure.step_cases import StepCase

#: The distance of the lower cap from the live bytes, and of the cap in the middle from the least, as a share. What a
#: load reserves may differ from its replay by a few segments, so that the least is not exact.
MARGIN = 0.01


def capped(case: StepCase, device: torch.device) -> dict[str, Any]:
    """Run a case with each cap: the cap in bytes, whether it should run and did, and the retries."""
    return {"request": case.body, "runs": [*_measured_runs(case.request, device)]}


def _measured_runs(request: Request, device: torch.device) -> Iterator[dict[str, Any]]:
    histories = Histories.from_training(request.training)
    seed = worst(request, histories)[0] if histories is not None else None
    for cap, retries in caps(request):
        ran, counted = _ran(request, device, cap, seed)
        yield {
            "cap": cap,
            "should_run": retries is not None,
            "ran": ran,
            "retries": {"predicted": retries, "measured": counted},
        }


def caps(request: Request) -> list[tuple[int, int | None]]:
    """Return the caps in bytes, each with the predicted retries; None if the run ends out of memory."""
    longest = with_longest_batch(request)
    replay = device_replay(longest, training_step(longest), SeriesCache())
    context = replay.context_bytes
    least = int((replay.outcome(replay.peak_reserved_bytes + context).minimum_bytes() - context) * (1 + MARGIN))
    ruled = estimate(replace(request, reserved="rule")).memory.peak_reserved_bytes
    above = max(ruled, replay.peak_reserved_bytes)
    limits: list[tuple[int, int | None]] = []
    for cap in (above, least):
        result = replay.outcome(cap + context).result()
        limits.append((cap, None if result.out_of_memory else result.retries))
    return [*limits, (int(replay.live_bytes * (1 - MARGIN)), None)]


def _ran(request: Request, device: torch.device, cap: int, seed: int | None) -> tuple[bool, int]:
    """Return whether a run, or its history of a seed, goes through on a cap, and how often cached blocks were freed."""
    free_workspaces(device)
    total = torch.cuda.get_device_properties(device).total_memory
    before = counts(device)
    torch.cuda.set_per_process_memory_fraction(cap / total, device)
    try:
        figures = ran(request, device) if seed is None else played(request, device, seed)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
    after = counts(device)
    retries = after.retries - before.retries if before is not None and after is not None else 0
    return figures["out_of_memory"] is None, retries
