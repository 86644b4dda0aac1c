"""Measurement of the last step of a trainer's own `train()` on a GPU or a stub of one, by phase."""

from __future__ import annotations

from contextlib import nullcontext
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch

from calculator.estimation.estimate import estimate
from validation.measure.meter import every_block_split, meter_of
from validation.measure.step import emptied
from validation.reference.optimizers import make_steady
from validation.reference.trainers.build import build_run
from validation.reference.trainers.meta_device import forget_trainer
from validation.reference.trainers.phases import mark_passes, mark_update
from validation.reference.trainers.recipe import parse_recipe
from validation.stub_gpu.host_values import BatchValues
from validation.stub_gpu.library import on_stub
from validation.tracing.step import no_garbage_collection

if TYPE_CHECKING:
    from calculator.common.names import PhaseName
    from validation.measure.meter import Meter
    from validation.measure.step_cases import StepCase
    from validation.reference.trainers.run import Run


class TrainerPhases:
    """Reads the most bytes of each phase of a trainer's last step; the step before creates the optimizer states."""

    def __init__(self, trainer: Any, meter: Meter) -> None:
        self.peaks: dict[PhaseName, int] = {}
        self._trainer, self._meter = trainer, meter
        self._phase: PhaseName = "forward"
        self._steps = 0
        mark_passes(trainer, self._begin_step, self._enter)
        mark_update(trainer, lambda: self._enter("optimizer_step"))

    def run(self) -> None:
        """Train, and read the last step."""
        with no_garbage_collection(), BatchValues() if on_stub() else nullcontext():
            self._trainer.train()
        self._leave()

    def _begin_step(self) -> None:
        self._enter("forward")
        self._steps += 1
        if self._steps == self._trainer.args.max_steps:
            make_steady(self._trainer.optimizer)

    def _enter(self, phase: PhaseName) -> None:
        self._leave()
        self._phase = phase

    def _leave(self) -> None:
        peak = self._meter.read().peak_allocated or 0
        if self._steps == self._trainer.args.max_steps:
            self.peaks[self._phase] = max(peak, self.peaks.get(self._phase, 0))


def measured(case: StepCase, device: torch.device) -> dict[str, Any]:
    """Measure a case: the most bytes allocated in each phase, predicted and measured, as the results file has them."""
    torch.manual_seed(0)
    bnb.functional.name2qmap.clear()
    forget_trainer()
    predicted = {phase.name: phase.peak_bytes for phase in estimate(case.request).memory.phases}
    with every_block_split(device), meter_of(device) as meter, TemporaryDirectory() as folder:
        peaks = _ran(case, folder, device, meter)
        emptied(device)
    return {"request": case.body, "predicted": predicted, "measured": peaks}


def _ran(case: StepCase, folder: str, device: torch.device, meter: Meter) -> dict[PhaseName, int]:
    recipe = parse_recipe(case.body)
    assert recipe is not None
    run: Run = build_run(recipe, folder, device)
    phases = TrainerPhases(run.trainer, meter)
    phases.run()
    return phases.peaks
