"""Measurement of a load by `from_pretrained` and the steps after it: what is reserved after each, as in a replay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.replay import Replay
from calculator.devices import workspaces
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import resident_state
from validation.measure.layer import fused_dropout
from validation.measure.meter import meter_of
from validation.measure.step import Run, emptied, release
from validation.stub_gpu.values import one_sequence_per_row

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from validation.measure.meter import Meter
    from validation.measure.step_cases import StepCase

#: Steps after the load.
STEPS = 3


def measured(case: StepCase, device: torch.device) -> dict[str, Any]:
    """Measure a case: the most bytes reserved in the load and in each step, predicted and measured.

    It belongs into a new process, whose workspaces are allocated in the first step.
    """
    torch.manual_seed(0)
    bnb.functional.name2qmap.clear()
    with meter_of(device) as meter, fused_dropout(device), one_sequence_per_row():
        reserved = _reserved(case.request, device, meter)
    emptied(device)
    return {"request": case.body, "predicted": predicted(case.request), "measured": reserved}


def _reserved(request: Request, device: torch.device, meter: Meter) -> list[int]:
    run = Run(request, device, meter)
    stages = [run.load.peak_reserved or 0]
    for _ in range(STEPS):
        run.step()
        stages.append(meter.read().peak_reserved or 0)
    release(run)
    return stages


def predicted(request: Request) -> list[int]:
    """Return the most bytes that a replay reserves up to the end of the load and of each step."""
    replay = Replay(CachingAllocator(), resident_state(request), workspaces(card_of(request.device), request.stack))
    replay.load()
    stages = [replay.allocator.max_reserved]
    for _ in range(STEPS):
        replay.step()
        stages.append(replay.allocator.max_reserved)
    return stages
