"""Measurement of one rank's sharded step on a GPU or a stub of one, by phase, with the real libraries.

The other ranks are missing: collectives return at once (PyTorch's `fake` process group).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import bitsandbytes as bnb
import torch

from calculator.estimation.estimate import estimate
from calculator.estimation.sharded_request import parse_sharded_request
from validation.comparison.show import peak_rank
from validation.measure.checkpoint import loaded, save_checkpoint
from validation.measure.layer import fused_dropout
from validation.measure.meter import every_block_split, meter_of
from validation.measure.step import PHASES, emptied, release
from validation.reference.build import adapted, build_model
from validation.reference.uninitialized import without_values
from validation.sharding.on_cuda import one_rank_on_cuda
from validation.sharding.streams import Streams
from validation.sharding.trace import ENGINES
from validation.stub_gpu.library import on_stub
from validation.stub_gpu.values import one_sequence_per_row

if TYPE_CHECKING:
    from calculator.estimation.request import Request
    from calculator.estimation.sharded_request import ShardedRequest
    from validation.measure.meter import Meter, Reading
    from validation.measure.step_cases import StepCase
    from validation.reference.build import ReferenceModel
    from validation.sharding.engine import Engine

#: Steps before the measured one, after those in which a library allocates what it keeps.
MORE_STEPS = 1


class ShardedRun:
    """One rank's training run on a CUDA device."""

    def __init__(self, sharded: ShardedRequest, device: torch.device, meter: Meter) -> None:
        self.training, self.meter = sharded.request.training, meter
        self.phase = "load"
        self.phases: dict[str, Reading] = {}
        reference = _model(sharded, device)
        self.engine: Engine = ENGINES[sharded.sharding.name](
            reference, self.training, sharded.sharding, Streams(), device=device
        )
        self.engine.build()
        del reference
        self.load = meter.read()
        shape = (self.training.micro_batch_size, self.training.sequence_length)
        self.input_ids = torch.zeros(shape, dtype=torch.long, device=device)
        self.mask = torch.ones_like(self.input_ids) if self.training.padding else None
        if self.mask is not None:
            self.mask[0, -1] = 0
        self.loss: torch.Tensor | None = None
        self.reserved = self.load.peak_reserved or 0

    def run(self) -> None:
        """Run the first steps, then measure one."""
        with self.engine.running():
            for _ in range(self.engine.warm_up_steps + MORE_STEPS):
                self._step()
                self.engine.settle()
            self._read()
            self._step(read=True)

    def _step(self, *, read: bool = False) -> None:
        self.engine.zero_grad()
        if read:
            self._read()
        count = self.training.gradient_accumulation_steps
        for number in range(1, count + 1):
            with self.engine.micro_batch(last=number == count):
                self.phase = "forward"
                with self._autocast():
                    self.loss = self.engine.model(
                        input_ids=self.input_ids, labels=self.input_ids, attention_mask=self.mask
                    ).loss
                self._leave(read)
                self.phase = "backward"
                self.engine.backward(self.loss)
                self._leave(read)
        self.phase = "optimizer_step"
        self.engine.update()
        self._leave(read)

    def _leave(self, read: bool) -> None:
        if not read:
            return
        reading, before = self._read(), self.phases.get(self.phase)
        if before is None or (reading.peak_allocated or 0) >= (before.peak_allocated or 0):
            self.phases[self.phase] = reading

    def _read(self) -> Reading:
        reading = self.meter.read()
        self.reserved = max(self.reserved, reading.peak_reserved or 0)
        return reading

    def _autocast(self) -> AbstractContextManager[Any]:
        dtype = self.engine.autocast_dtype()
        return nullcontext() if dtype is None else torch.autocast("cuda", getattr(torch, dtype))


def _model(sharded: ShardedRequest, device: torch.device) -> ReferenceModel:
    """Load the model where the libraries get it: on the GPU if it is replicated or in 4 bits, else on the host."""
    request = sharded.request
    if sharded.sharding.name == "ddp" or request.method.facts.quantizes_base:
        with TemporaryDirectory() as folder:
            save_checkpoint(request, Path(folder))
            base = loaded(request, Path(folder), device, sharded.sharding.quant_storage)
        return adapted(base, request, device)
    with without_values() if on_stub() else nullcontext():
        return build_model(request, torch.device("cpu"))


def measured(case: StepCase, device: torch.device) -> dict[str, Any]:
    """Measure a case: the predicted bytes of each phase and those of its rank, as the results file has them.

    It runs twice, as a step of one GPU does, and belongs into a new process.
    """
    figures = _ran(case, device)
    if figures["measured"] is not None:
        with every_block_split(device):
            split = _ran(case, device)["measured"]
        if split is not None:
            figures["measured"] |= {name: split[name] for name in ("load", "phases")}
    return {"request": case.body, "predicted": _predicted(case.request), **figures}


def _predicted(request: Request) -> dict[str, Any]:
    by_rule = estimate(replace(request, reserved="rule")).memory
    replayed = estimate(replace(request, reserved="replay")).memory
    return {
        "phases": {phase.name: phase.peak_bytes for phase in by_rule.phases},
        "library_workspace": by_rule.library_workspace_bytes,
        "reserved_rule": by_rule.peak_reserved_bytes,
        "reserved_replay": replayed.peak_reserved_bytes,
    }


def _ran(case: StepCase, device: torch.device) -> dict[str, Any]:
    torch.manual_seed(0)
    bnb.functional.name2qmap.clear()
    sharded, rank = parse_sharded_request(case.body), peak_rank(case.body)
    figures: dict[str, Any] = {"rank": rank, "measured": None, "out_of_memory": None}
    run: ShardedRun | None = None
    with ExitStack() as stack:
        stack.enter_context(one_rank_on_cuda(sharded.sharding.count, rank))
        meter = stack.enter_context(meter_of(device))
        stack.enter_context(fused_dropout(device))
        stack.enter_context(one_sequence_per_row())
        try:
            run = ShardedRun(sharded, device, meter)
            run.run()
            figures["measured"] = {
                "load": run.load.allocated,
                "phases": {phase: run.phases[phase].peak_allocated for phase in PHASES},
                "peak_reserved": run.reserved,
            }
        except torch.OutOfMemoryError as error:
            figures["out_of_memory"] = {"phase": run.phase if run else "load", "message": str(error)[:300]}
        finally:
            if run is not None:
                run.engine.close()
            release(run)
            del run
            emptied(device)
    return figures
