"""The reference training step of one rank, traced in its steady state."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from validation.reference.images import known_batch
from validation.reference.methods import after_step, statistics
from validation.reference.refusals import positions_needed
from validation.sharding.host_reads import HostReads
from validation.sharding.process_group import resizing_seen
from validation.tracing.emulations.autocast import autocast
from validation.tracing.gradients import gradients_labeled
from validation.tracing.host_values import HostValues
from validation.tracing.initial_tensors import quantization_constants, track_attributes, track_buffers, track_loss
from validation.tracing.known_values import KnownValues
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import EmulatedKernels, MemoryTracker
from validation.tracing.module_tracker import ModuleTracker
from validation.tracing.step import no_garbage_collection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import PhaseName
    from calculator.estimation.request import Request
    from validation.sharding.engine import Engine
    from validation.sharding.streams import Streams

#: Micro-batches to trace: the first, one in between, and the last.
TRACED_MICRO_BATCHES = 3


class ShardedStep:
    """One rank's step in its steady state, after the steps in which the library allocates what it keeps."""

    def __init__(self, engine: Engine, request: Request, device: torch.device, streams: Streams) -> None:
        self.engine, self.training = engine, request.training
        self.micro_batches = min(TRACED_MICRO_BATCHES, self.training.gradient_accumulation_steps)
        shape = (self.training.micro_batch_size, self.training.sequence_length)
        self.input_ids = torch.zeros(shape, dtype=torch.long, device=device)
        self.mask = torch.ones(shape, dtype=torch.long, device=device) if self.training.padding else None
        self.values: KnownValues | HostValues = KnownValues(positions_needed(request))
        self.images: dict[str, torch.Tensor] = {}
        if self.training.has_images:
            self.values = HostValues(unknown=0)  # DeepSpeed reads whether gradients overflow
            config = engine.reference.model.config
            self.images = known_batch(self.values, request, config, self.input_ids, self.mask)
        self.ledger: Ledger[PhaseName] = Ledger()
        reference = engine.reference
        self.tracker = MemoryTracker(
            self.ledger,
            ModuleTracker(reference.model, reference.root),
            reference.head,
            self.values,
            wrappers=engine.wrappers,
            stream=streams.current_name,
            device=device.type,
        )

    def run(self) -> None:
        """Run the first steps, then trace one."""
        with self.engine.running(), HostReads():
            with self.engine.warming_up(), EmulatedKernels(self.values, self.engine.wrappers):
                for _ in range(self.engine.warm_up_steps):
                    self._micro_batches()
                    self._update()
                    self.engine.zero_grad()
                    self.engine.settle()
            self._track_initial_tensors()
            self.resident = self.ledger.live_bytes
            with self._tracking():
                self._micro_batches(self.tracker.enter)
                self.gradients = self.tracker.live_bytes("gradients")
                self.tracker.enter("optimizer_step")
                self._update()

    def static(self) -> dict[str, int]:
        """Return bytes of the tensors that stay through the step, by component, and of the gradients after backward."""
        return {**self.ledger.static(), "gradients": self.gradients}

    @contextmanager
    def _tracking(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(no_garbage_collection())
            stack.enter_context(gradients_labeled(self.tracker, self.engine.labeled()))
            stack.enter_context(self.engine.tracing(self.tracker))
            stack.enter_context(resizing_seen(self.tracker.resized))
            stack.enter_context(self.tracker.tracking())
            yield

    def _micro_batches(self, enter: Callable[[PhaseName], None] = lambda _: None) -> None:
        for number in range(1, self.micro_batches + 1):
            with self.engine.micro_batch(last=number == self.micro_batches):
                enter("forward")
                self.loss = self._forward()
                enter("backward")
                self.engine.backward(self.loss)

    def _update(self) -> None:
        self.engine.update()
        after_step(self.engine.reference.model)

    def _forward(self) -> torch.Tensor:
        with ExitStack() as stack:
            dtype = self.engine.autocast_dtype()
            if dtype:
                stack.enter_context(autocast("meta", getattr(torch, dtype)))
            inputs = {"input_ids": self.input_ids, "attention_mask": self.mask, **self.images}
            return self.engine.model(labels=self.input_ids, **inputs).loss

    def _track_initial_tensors(self) -> None:
        engine, reference, track = self.engine, self.engine.reference, self.tracker.track_external
        engine.track(track)
        for name, parameter in reference.named_parameters():
            track(name, engine.local(parameter), engine.component(name))
        for path, module in reference.model.named_modules():
            for constant, tensor in quantization_constants(getattr(module, "quant_state", None)):
                track(f"{path}.weight.{constant}", tensor, "quantization_constants")
        track_buffers(self.tracker, reference)
        track_attributes(self.tracker, reference)
        for name, tensor in engine.states():
            track(name, tensor, "optimizer_states")
        for name, tensor in statistics(reference.model):
            track(name, tensor, "optimizer_states")
        for name, tensor in {"input_ids": self.input_ids, "attention_mask": self.mask, **self.images}.items():
            if tensor is not None:
                track(name, tensor, "activations")
        track_loss(self.tracker, self.loss)
        engine.track_rest(track)
