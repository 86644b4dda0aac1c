"""Measurement of steps whose micro-batches differ in length, next to the replay of the same history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch

from calculator.allocator.history_run import HistoryRun
from calculator.devices import workspaces
from calculator.devices.verdict import card_of
from calculator.estimation.estimate import resident_state
from calculator.estimation.history_replay import Histories
from calculator.estimation.sample_lengths import with_longest_batch
from validation.measure.layer import fused_dropout
from validation.measure.meter import counts, free_workspaces, meter_of
from validation.measure.step import Run, emptied, release
from validation.stub_gpu.values import one_sequence_per_row

if TYPE_CHECKING:
    from calculator.allocator.history import EmptyCache, HistoryResult, Step
    from calculator.estimation.request import Request
    from validation.measure.step_cases import StepCase


class LengthsRun(Run):
    """A training run whose micro-batches differ in length."""

    def play(self, steps: tuple[Step, ...], empty_cache: EmptyCache | None) -> list[int | None]:
        """Run the steps; returns the most bytes that each reserved."""
        reserved: list[int | None] = []
        for number, step in enumerate(steps):
            empties = empty_cache is not None and empty_cache.in_step(number)
            self.optimizer.zero_grad(set_to_none=True)
            for batch in step:
                # The batch before is freed when its name is assigned, after the forward pass.
                input_ids, mask = self._batch(batch.length, padding=batch.padding)
                after_forward = empties and empty_cache is not None and empty_cache.after_forward
                self._micro_batch(input_ids, mask, empties=after_forward)
                self.input_ids, self.mask = input_ids, mask
            self._update()
            if empties and empty_cache is not None and not empty_cache.after_forward:
                torch.cuda.empty_cache()
            reserved.append(self.meter.read().peak_reserved)
        return reserved


def measured(case: StepCase, device: torch.device) -> dict[str, Any]:
    """Run a case's worst history: what each step reserved, and the allocator's retries, predicted and measured."""
    histories = Histories.from_training(case.request.training)
    assert histories is not None
    seed, result = worst(case.request, histories)
    return {
        "request": case.body,
        "seed": seed,
        "predicted": {"reserved": [*result.reserved], "retries": sum(result.retries)},
        **played(case.request, device, seed),
    }


def worst(request: Request, histories: Histories) -> tuple[int, HistoryResult]:
    """Return the seed whose replayed history reserves the most without a limit, and the replay."""
    run = HistoryRun(resident_state(with_longest_batch(request)), workspaces(card_of(request.device), request.stack))
    results = [run.replay(steps, empty_cache=histories.empty_cache) for steps in histories.steps]
    seed = max(range(len(results)), key=lambda seed: results[seed].peak_reserved_bytes)
    return seed, results[seed]


def played(request: Request, device: torch.device, seed: int) -> dict[str, Any]:
    """Run one history: the measured figures, or None with the phase in which it ran out of memory."""
    torch.manual_seed(0)
    bnb.functional.name2qmap.clear()
    free_workspaces(device)
    histories = Histories.from_training(request.training)
    assert histories is not None
    figures: dict[str, Any] = {"measured": None, "out_of_memory": None}
    run: LengthsRun | None = None
    before = counts(device)
    try:
        with meter_of(device) as meter, fused_dropout(device), one_sequence_per_row():
            run = LengthsRun(with_longest_batch(request), device, meter)
            reserved = run.play(histories.steps[seed], histories.empty_cache)
            figures["measured"] = {"reserved": reserved}
    except torch.OutOfMemoryError as error:
        figures["out_of_memory"] = {"phase": run.phase if run else "load", "message": str(error)[:300]}
    finally:
        release(run)
        del run
        emptied(device)
    after = counts(device)
    if before is not None and after is not None:
        figures["counts"] = {"retries": after.retries - before.retries, "ooms": after.ooms - before.ooms}
    else:
        figures["counts"] = None
    return figures
