"""The reference step, traced on the meta device."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import bitsandbytes as bnb
import torch

from validation.build import Built, built
from validation.ledger import Ledger, Storage
from validation.optimizers import on_meta, optimizer_for, states
from validation.places import Places, plain
from validation.shims import as_on_cuda
from validation.watch import Emulated, Watch, total

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.answer import PhaseName
    from calculator.request import Request


@dataclass(frozen=True, slots=True)
class Trace:
    """What one step allocated."""

    parameters: dict[str, int]
    static: dict[str, int]
    ledger: Ledger
    emulations: tuple[str, ...] = ()

    @property
    def phases(self) -> dict[PhaseName, int]:
        """The most bytes alive in each phase."""
        return {phase: peak.bytes for phase, peak in self.ledger.peaks.items()}

    @property
    def peak_op(self) -> dict[PhaseName, str]:
        """Where each phase's peak was reached."""
        return {phase: peak.op for phase, peak in self.ledger.peaks.items()}

    @property
    def peak_phase(self) -> PhaseName:
        """The phase of the step's peak; the first of equals."""
        return max(self.phases, key=lambda phase: self.phases[phase])

    @property
    def peak_allocated_bytes(self) -> int:
        """The most bytes alive in the step."""
        return max(self.phases.values())

    @property
    def events(self) -> list[int]:
        """Births and frees in order: a storage's number, or its complement where it is freed."""
        return self.ledger.events

    def alive_at_peak(self, phase: PhaseName | None = None) -> list[Storage]:
        """What is alive at a phase's peak (by default the step's), in the order of birth."""
        return list(self.ledger.alive(self.ledger.peaks[phase or self.peak_phase].event))


def trace(request: Request) -> Trace:
    """Run the reference step of a request on the meta device and book every storage."""
    with as_on_cuda(), on_meta():
        model = built(request)
        return _Step(model, request).traced()


class _Step:
    """One step of a built model."""

    def __init__(self, built: Built, request: Request) -> None:
        self.model, self.training, self.built = built.model, request.training, built
        self.named = [(plain(n, built.root), p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.trained = [parameter for _, parameter in self.named]
        self.optimizer = optimizer_for(self.training.optimizer, self.trained)
        self.ledger = Ledger()
        self.places = Places(self.model, built.root)
        self.watch = Watch(self.ledger, self.places, built.head)
        shape = (self.training.micro_batch_size, self.training.sequence_length)
        self.input_ids = torch.zeros(shape, dtype=torch.long, device="meta")
        self.mask = torch.ones(shape, dtype=torch.long, device="meta") if self.training.padding else None
        self._first()

    def _plain(self, name: str) -> str:
        return plain(name, self.built.root)

    def traced(self) -> Trace:
        self._adopt()
        hooks = [p.register_post_accumulate_grad_hook(self._claimer(n)) for n, p in self.named]
        gc.collect()
        gc.disable()
        try:
            with self.places.followed(), self.watch:
                for _ in range(min(2, self.training.gradient_accumulation_steps)):
                    self._micro_batch()
                gradients = total((self.ledger.storages[n] for n in set(self.watch._numbers.values())), "gradients")
                self.watch.enter("optimizer_step")
                self._update()
        finally:
            gc.enable()
            for hook in hooks:
                hook.remove()
        return Trace(parameters=self._parameters(), static={**self.static, "gradients": gradients}, ledger=self.ledger)

    def _adopt(self) -> None:
        for name, parameter in self.model.named_parameters():
            base = self._plain(name) in self.built.base
            self.watch.adopt(self._plain(name), parameter, "base_weights" if base else "adapter_weights")
            quant_state = getattr(parameter, "quant_state", None)
            if quant_state is not None:
                self._adopt_constants(self._plain(name), quant_state)
        for name, buffer in self.model.named_buffers():
            self.watch.adopt(self._plain(name), buffer, "base_weights")
        names = {id(parameter): name for name, parameter in self.named}
        for parameter, name, tensor in states(self.optimizer):
            self.watch.adopt(f"{names[id(parameter)]}.{name}", tensor, "optimizer_states")
        kept = ("base_weights", "quantization_constants", "adapter_weights", "optimizer_states")
        for name, tensor in (("input_ids", self.input_ids), ("attention_mask", self.mask), ("loss", self.loss)):
            if tensor is not None:
                self.watch.adopt(name, tensor, "activations")
        for number, tensor in enumerate(leaves(self.loss)):
            self.watch.adopt(f"loss.leaf.{number}", tensor, "activations")
            if tensor.grad is not None:
                self.watch.adopt(f"loss.leaf.{number}.grad", tensor.grad, "activations")
        self.static = {component: total(self.ledger.storages, component) for component in kept}

    def _adopt_constants(self, name: str, state: object) -> None:
        for field in ("absmax", "code", "offset"):
            tensor = getattr(state, field, None)
            if tensor is not None:
                self.watch.adopt(f"{name}.{field}", tensor, "quantization_constants")
        if getattr(state, "state2", None) is not None:
            self._adopt_constants(f"{name}.state2", state.state2)
            self.watch.adopt("bitsandbytes.code", bnb.functional.name2qmap["dynamic"], "quantization_constants")

    def _claimer(self, name: str):  # noqa: ANN202
        return lambda parameter: self.watch.claim(f"{name}.grad", parameter.grad, "gradients")

    def _first(self) -> None:
        with Emulated():
            self.loss = self._forward()
            self.loss.backward()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _forward(self) -> torch.Tensor:
        return self.model(input_ids=self.input_ids, labels=self.input_ids, attention_mask=self.mask).loss

    def _micro_batch(self) -> None:
        self.watch.enter("forward")
        self.loss = self._forward()
        self.watch.enter("backward")
        self.loss.backward()

    def _update(self) -> None:
        if self.training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(self.trained, self.training.max_grad_norm, foreach=True)
        self.optimizer.step()

    def _parameters(self) -> dict[str, int]:
        trainable = sum(parameter.numel() for parameter in self.trained)
        added = sum(
            p.numel()
            for n, p in self.model.named_parameters()
            if self._plain(n) not in self.built.base
        )
        base = self.built.base_parameters
        return {"base": base, "added": added, "trainable": trainable, "total": base + added}


def leaves(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """Every leaf that a loss's graph still refers to, such as an embedding's output that was made to need a gradient."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        todo += (following for following, _ in node.next_functions)
