"""The reference step on a built model: zero the gradients, some micro-batches, clip, update."""

from __future__ import annotations

import gc
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import torch

from validation.reference.optimizers import optimizer_for
from validation.reference.refusals import tokens
from validation.tracing.emulations.autocast import autocast
from validation.tracing.initial_tensors import adopt_model, adopt_step
from validation.tracing.known_values import Values
from validation.tracing.ledger import Ledger
from validation.tracing.memory_tracker import Emulated, Watch
from validation.tracing.module_tracker import Places

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.common.names import PhaseName
    from calculator.estimate.request import Request
    from validation.reference.build import Built

#: Micro-batches that are traced: gradients are alive in every one but the first, so a third is as the second.
TRACED_MICRO_BATCHES = 2


class Step:
    """One step of a model, from its second on: a first one runs unwatched, so that the optimizer's states exist."""

    def __init__(self, built: Built, request: Request) -> None:
        self.built, self.model, self.training = built, built.model, request.training
        self.trained = built.trained()
        self.optimizer = optimizer_for(self.training.optimizer, list(self.trained.values()))
        shape = (self.training.micro_batch_size, self.training.sequence_length)
        self.input_ids = torch.zeros(shape, dtype=torch.long, device="meta")
        self.mask = torch.ones(shape, dtype=torch.long, device="meta") if self.training.padding else None
        self.values = Values(tokens(request))
        self.ledger: Ledger[PhaseName] = Ledger()
        self.watch = Watch(self.ledger, Places(self.model, built.root), built.head, self.values)

    def run(self) -> None:
        """Take the first step, then trace the second."""
        self._first()
        adopt_model(self.watch, self.built)
        adopt_step(self.watch, self)
        with no_collection(), self._gradients_claimed(), self.watch.watching():
            for _ in range(min(TRACED_MICRO_BATCHES, self.training.gradient_accumulation_steps)):
                self.watch.enter("forward")
                self.loss = self._forward()
                self.watch.enter("backward")
                self.loss.backward()
            self.gradients = self.watch.alive("gradients")
            self.watch.enter("optimizer_step")
            self._update()

    def static(self) -> dict[str, int]:
        """Bytes of what stays through the step, and of its gradients."""
        return {**self.ledger.static(), "gradients": self.gradients}

    def _first(self) -> None:
        with Emulated(self.values):
            self.loss = self._forward()
            self.loss.backward()
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _forward(self) -> torch.Tensor:
        with ExitStack() as stack:
            if self.training.autocast:
                stack.enter_context(autocast("meta", getattr(torch, self.training.autocast)))
            return self.model(input_ids=self.input_ids, labels=self.input_ids, attention_mask=self.mask).loss

    def _update(self) -> None:
        if self.training.max_grad_norm:
            torch.nn.utils.clip_grad_norm_(list(self.trained.values()), self.training.max_grad_norm, foreach=True)
        self.optimizer.step()

    @contextmanager
    def _gradients_claimed(self) -> Iterator[None]:
        """Call each trained parameter's gradient a gradient as soon as autograd has put it there."""
        hooks = [p.register_post_accumulate_grad_hook(self._claimer(name)) for name, p in self.trained.items()]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _claimer(self, name: str) -> Callable[[torch.Tensor], None]:
        def claim(parameter: torch.Tensor) -> None:
            assert parameter.grad is not None
            self.watch.claim(f"{name}.grad", parameter.grad, "gradients")

        return claim


@contextmanager
def no_collection() -> Iterator[None]:
    """Keep Python's cycle collector from freeing tensors at a moment of its own."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
