"""One rank's step of a trainer on several GPUs, traced: its real `train()` runs with the library that shards."""

from __future__ import annotations

import gc
from contextlib import ExitStack
from typing import TYPE_CHECKING

from validation.reference.trainers.phases import run_before
from validation.sharding.host_reads import HostReads
from validation.sharding.process_group import resizing_seen
from validation.tracing.gradients import gradients_labeled
from validation.tracing.host_values import HostValues
from validation.tracing.initial_tensors import quantization_constants
from validation.tracing.step import no_garbage_collection
from validation.tracing.trainer_step import TrainerStep

if TYPE_CHECKING:
    from calculator.common.names import PhaseName
    from validation.reference.trainers.run import Run
    from validation.sharding.engine import Engine
    from validation.sharding.streams import Streams
    from validation.tracing.ledger import Peak


class ShardedTrainerStep(TrainerStep):
    """A trainer's last step on one rank. The library prepares the model inside `train()`."""

    def __init__(self, run: Run, engine: Engine, streams: Streams) -> None:
        values = HostValues(unknown=0)  # DeepSpeed reads whether gradients overflow
        super().__init__(run, values=values, wrappers=engine.wrappers, stream=streams.current_name)
        self.engine = engine
        self.trainable = {}  # whole parameters, which the library replaces by shards
        self._contexts = ExitStack()
        self._peaks: dict[PhaseName, Peak] | None = None

    def _mark_update(self) -> None:
        if not self.engine.steps_in_backward:
            super()._mark_update()

    def _finish(self) -> None:
        """Leave out what follows the last step: a trainer that logs gathers the losses of all ranks."""
        if self.steps == self.trainer.args.max_steps and self._peaks is None:
            self._peaks = dict(self.ledger.peaks)

    def _train(self) -> None:
        with self._contexts as contexts:
            contexts.enter_context(self.engine.running())
            contexts.enter_context(HostReads())
            contexts.enter_context(no_garbage_collection())
            contexts.enter_context(self.engine.preparing())
            contexts.enter_context(resizing_seen(self.tracker.resized))
            contexts.enter_context(self.tracker.tracking())
            run_before(self.trainer, "_maybe_log_save_evaluate", self._finish)
            self.trainer.train()
        self.ledger.peaks = self._peaks or self.ledger.peaks

    def _adopt(self) -> None:
        """Name what the library and the steps before have created, and label the gradients of the last step."""
        engine, record = self.engine, self.tracker.adopt
        gc.collect()  # the library's own copies of the model are in reference cycles
        engine.adopt(self.trainer)
        engine.track(record)
        for name, parameter in self.reference.named_parameters():
            record(name, engine.local(parameter), engine.component(name))
        for name, parameter in self.frozen.named_parameters() if self.frozen is not None else ():
            record(f"ref_model.{name}", engine.local(parameter), "base_weights")
        for path, module in self.reference.model.named_modules():
            for constant, tensor in quantization_constants(getattr(module, "quant_state", None)):
                record(f"{path}.weight.{constant}", tensor, "quantization_constants")
        for name, tensor in engine.states():
            record(name, tensor, "optimizer_states")
        for tensor in engine.on_host():
            self.tracker.forget(tensor)
        if engine.steps_in_backward:
            run_before(engine.model, "step", self._begin_update)
        self._contexts.enter_context(gradients_labeled(self.tracker, engine.labeled()))
        self._contexts.enter_context(engine.tracing(self.tracker))
