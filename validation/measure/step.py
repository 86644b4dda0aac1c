"""Measurement of the reference step on a device, by phase, after warm-up steps."""

from __future__ import annotations

import gc
import time
from contextlib import AbstractContextManager, nullcontext
from statistics import median
from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch

from validation.measure.checkpoint import from_checkpoint
from validation.measure.layer import counters, fused_dropout
from validation.measure.meter import Meter, Reading, driver_bytes, every_block_split, free_workspaces, meter_of
from validation.measure.step_prediction import predicted
from validation.reference.build import build_model
from validation.reference.optimizers import optimizer_for
from validation.stub_gpu.values import one_sequence_per_row

if TYPE_CHECKING:
    from calculator.estimation.request import Request

PHASES = ("forward", "backward", "optimizer_step")

#: Warm-up steps: the first creates the optimizer states, the second runs with them allocated.
WARM_UP = 2
#: Timed steps after the measured one.
TIMED = 3


class Run:
    """A training run of a request on a device. A GPU loads its model from a checkpoint, as a replay assumes."""

    def __init__(self, request: Request, device: torch.device, meter: Meter) -> None:
        self.training = request.training
        self.device = device
        self.meter = meter
        self.phase = "load"
        self.phases: dict[str, Reading] = {}
        model = from_checkpoint(request, device) if device.type == "cuda" else build_model(request, device)
        self.model = model.model
        self.trainable = list(model.trainable().values())
        self.optimizer = optimizer_for(self.training.optimizer, self.trainable)
        self.loss: torch.Tensor | None = None
        self.load = meter.read(host=self._host_tensors())
        self.input_ids, self.mask = self._batch(self.training.sequence_length, padding=self.training.padding)

    def _batch(self, length: int, *, padding: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return random tokens, and a mask with padding if there is some."""
        shape = (self.training.micro_batch_size, length)
        vocabulary = self.model.get_input_embeddings().num_embeddings
        input_ids = torch.randint(0, vocabulary, shape, device=self.device)
        mask = torch.ones_like(input_ids) if padding else None
        if mask is not None:
            mask[0, -1] = 0
        return input_ids, mask

    def step(self, *, read: bool = False) -> None:
        """Run one step; `read` records the memory of each phase."""
        self.optimizer.zero_grad(set_to_none=True)
        if read:
            self.meter.read()
        for _ in range(self.training.gradient_accumulation_steps):
            self._micro_batch(self.input_ids, self.mask, read=read)
        self._update(read=read)

    def _micro_batch(
        self, input_ids: torch.Tensor, mask: torch.Tensor | None, *, read: bool = False, empties: bool = False
    ) -> None:
        """Forward and backward; `empties` empties the allocator's cache in between."""
        self._enter("forward")
        with self._autocast():
            self.loss = self.model(input_ids=input_ids, labels=input_ids, attention_mask=mask).loss
        self._leave(read)
        if empties:
            torch.cuda.empty_cache()
        self._enter("backward")
        self.loss.backward()
        self._leave(read)

    def _update(self, *, read: bool = False) -> None:
        """Clip the gradients and run the optimizer's step."""
        self._enter("optimizer_step")
        if self.training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.trainable, self.training.max_grad_norm, foreach=True)
        self.optimizer.step()
        self._leave(read)

    def seconds(self) -> float:
        """Return seconds per step; the median of a few."""
        times = []
        for _ in range(TIMED):
            start = time.perf_counter()
            self.step()
            if self.device.type == "cuda":
                torch.cuda.synchronize(self.device)
            times.append(time.perf_counter() - start)
        return median(times)

    def _enter(self, phase: str) -> None:
        self.phase = phase

    def _leave(self, read: bool) -> None:
        """Record a phase's reading; the higher one if the phase repeats."""
        if not read:
            return
        reading = self.meter.read(host=self._host_tensors())
        phase = self.phases.get(self.phase)
        if phase is None or (reading.peak_allocated or 0) >= (phase.peak_allocated or 0):
            self.phases[self.phase] = reading

    def _host_tensors(self) -> list[torch.Tensor]:
        """Return tensors that are on the host in a GPU run: step counters, and the indices of PEFT's virtual tokens."""
        return counters(self.optimizer) + list(getattr(self.model, "prompt_tokens", {}).values())

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.training.autocast is None:
            return nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.training.autocast))


def measured(request: Request, device: torch.device) -> dict[str, Any]:
    """Measure a step: its figures as the results file has them; running out of memory is recorded with its phase.

    On a GPU it runs twice: with the allocator's default settings, for what is reserved, and then with every block
    split, for what is allocated. The first run allocates the libraries' workspaces in its first step, as a process of
    its own does, and they are alive before the second.
    """
    free_workspaces(device)
    figures = ran(request, device)
    if figures["measured"] is None or device.type != "cuda":
        return figures
    with every_block_split(device):
        split = ran(request, device)["measured"]
    return figures if split is None else figures | {"measured": _merged(figures["measured"], split)}


def ran(request: Request, device: torch.device) -> dict[str, Any]:
    """Measure a step with the current settings of the allocator."""
    torch.manual_seed(0)
    bnb.functional.name2qmap.clear()
    figures: dict[str, Any] = {"predicted": predicted(request), "measured": None, "out_of_memory": None}
    run: Run | None = None
    try:
        with meter_of(device) as meter, fused_dropout(device), one_sequence_per_row():
            run = Run(request, device, meter)
            for _ in range(WARM_UP if device.type == "cuda" else 1):
                run.step()
            run.step(read=True)
            figures["measured"] = _figures(run)
    except torch.OutOfMemoryError as error:
        figures["out_of_memory"] = {"phase": run.phase if run else "load", "message": str(error)[:300]}
    finally:
        release(run)
        del run
        emptied(device)
    return figures


def _merged(default: dict[str, Any], split: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a run with default settings, with the allocated bytes of one with every block split."""
    reserved = ("reserved", "peak_reserved")
    phases = {
        phase: split["phases"][phase] | {name: reading[name] for name in reserved}
        for phase, reading in default["phases"].items()
    }
    return default | {name: split[name] for name in ("load", "end", "peak_allocated")} | {"phases": phases}


def emptied(device: torch.device) -> None:
    """Free what nothing refers to, and the cached blocks of a GPU."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _figures(run: Run) -> dict[str, Any]:
    end = run.phases["optimizer_step"]
    return {
        "load": run.load.allocated,
        "end": end.allocated,
        "phases": {phase: run.phases[phase].to_json() for phase in PHASES},
        "peak_allocated": _largest(run.phases[phase].peak_allocated for phase in PHASES),
        "peak_reserved": _largest(run.phases[phase].peak_reserved for phase in PHASES),
        "driver": driver_bytes(run.device),
        "seconds_per_step": round(run.seconds(), 4) if run.device.type == "cuda" else None,
    }


def _largest(figures: Any) -> int | None:
    measured = [figure for figure in figures if figure is not None]
    return max(measured) if measured else None


def release(run: object | None) -> None:
    """Drop a run's attributes, so that an exception's frames do not keep its tensors alive."""
    if run is not None:
        vars(run).clear()
