"""Tests of a verdict: a step runs with the process's memory capped just above and just below the prediction.

The upper cap is `peak_reserved_bytes`: the step must run. The lower cap is 1 % below the allocated peak with the
libraries' workspaces: no allocator can place what is alive, so the step must run out of memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from validation.measure.step import measured
from validation.measure.step_prediction import predicted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimate.request import Request
    from validation.measure.step_cases import StepCase

#: The distance of the lower cap from the allocated peak, as a share.
BELOW = 0.01


def capped(case: StepCase, device: torch.device) -> dict[str, Any]:
    """Run a case with both caps: each cap in bytes, whether the step should run, and whether it did."""
    return {"request": case.body, "runs": [*_runs(case.request, device)]}


def _runs(request: Request, device: torch.device) -> Iterator[dict[str, Any]]:
    figures = predicted(request)
    allocated = figures["peak_allocated"] + figures["library_workspace"]
    for cap, fits in ((figures["reserved_rule"], True), (int(allocated * (1 - BELOW)), False)):
        yield {"cap": cap, "should_run": fits, "ran": _ran(request, device, cap)}


def _ran(request: Request, device: torch.device, cap: int) -> bool:
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction(cap / total, device)
    try:
        return measured(request, device)["out_of_memory"] is None
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)
