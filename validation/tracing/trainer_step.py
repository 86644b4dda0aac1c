"""A trainer's own step, traced: its real `train()` runs, and the last of its steps is recorded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from validation.reference.optimizers import make_steady, states
from validation.reference.trainers.phases import mark_passes, mark_update
from validation.tracing.gradients import gradients_labeled
from validation.tracing.host_values import HostValues
from validation.tracing.initial_tensors import track_model
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import MemoryTracker
from validation.tracing.module_tracker import ModuleTracker
from validation.tracing.step import no_garbage_collection

if TYPE_CHECKING:
    from calculator.common.names import PhaseName
    from validation.reference.trainers.run import Run


class TrainerStep:
    """A trainer's last step, traced; the ones before create the optimizer states and are forgotten.

    A step begins when the trainer collects its batches. `resident_bytes` are those alive at that moment.
    """

    def __init__(self, run: Run, **tracking: Any) -> None:
        self.trainer, self.reference, self.frozen = run.trainer, run.reference, run.frozen
        self.trainable = run.reference.trainable()
        self.ledger: Ledger[PhaseName] = Ledger()
        modules = ModuleTracker(run.reference.model, run.reference.root)
        device = run.trainer.args.device.type
        options = {"values": HostValues(), "device": device} | tracking
        self.tracker = MemoryTracker(self.ledger, modules, run.reference.head, **options)
        self.steps = 0

    def run(self) -> None:
        """Train, and record the last step."""
        track_model(self.tracker, self.reference)
        if self.frozen is not None:
            for name, tensor in (*self.frozen.named_parameters(), *self.frozen.named_buffers()):
                shard = getattr(tensor, "ds_tensor", getattr(tensor, "_local_tensor", tensor))  # DeepSpeed's, DTensor's
                self.tracker.track_external(f"ref_model.{name}", shard, "base_weights")
        mark_passes(self.trainer, self._begin_step, self.tracker.enter)
        self._mark_update()
        self._train()

    def _mark_update(self) -> None:
        mark_update(self.trainer, self._begin_update)

    def _train(self) -> None:
        with no_garbage_collection(), gradients_labeled(self.tracker, self.trainable), self.tracker.tracking():
            self.trainer.train()

    def static(self) -> dict[str, int]:
        """Return bytes of the tensors that stay through the step, by component, and of the gradients."""
        return {**self.ledger.static(), "gradients": self.gradients}

    def _begin_step(self) -> None:
        self.steps += 1
        if self.steps == self.trainer.args.max_steps:
            make_steady(self.trainer.optimizer)
            self._adopt()
            self.tracker.restart()
        self.resident_bytes = self.ledger.live_bytes
        self.tracker.enter("forward")

    def _begin_update(self) -> None:
        self.gradients = self.tracker.live_bytes("gradients")
        self.tracker.enter("optimizer_step")

    def _adopt(self) -> None:
        """Name what the steps before created: weights of the model that a forward pass cast for good, optimizer states.

        Linear4bit assigns its bias in the dtype of the input to `bias.data` (bitsandbytes/nn/modules.py).
        """
        for name, parameter in self.reference.named_parameters():
            if name in self.reference.base:
                self.tracker.adopt(name, parameter, "base_weights")
        names = {id(parameter): name for name, parameter in self.trainable.items()}
        for parameter, name, tensor in states(self.trainer.optimizer):
            self.tracker.adopt(f"{names.get(id(parameter), 'frozen')}.{name}", tensor, "optimizer_states")
