"""The hooks of a micro-batch whose backward pass updates each parameter and frees its gradient.

Sources: transformers/trainer_optimizer.py, _setup_low_rank_optimizer; lomo_optim/lomo.py and adalomo.py;
torch.Tensor.register_post_accumulate_grad_hook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.accumulation import Accumulation
from calculator.engine.repetition import repetition_before_last
from calculator.layers.sharding_hooks import Hooks
from calculator.resident.optimizers import OPTIMIZERS, updates_in_backward
from calculator.resident.tensor import ResidentTensor
from calculator.training_step.optimizer_targets import with_projection
from calculator.training_step.updates import lomo, low_rank
from calculator.training_step.updates.loops import LOOPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape, Tensor
    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.optimizer import Optimizer


class ReleasingHooks(Hooks):
    """Hooks with one optimizer per parameter. Each optimizer steps after its parameter's gradient is accumulated."""

    __slots__ = ("_optimizer",)

    def __init__(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer

    def accumulates(self, training: Training) -> bool:  # noqa: ARG002  a hook's signature
        """Return False: no gradient of an earlier micro-batch exists."""
        return False

    def accumulation(self, training: Training) -> Accumulation:  # noqa: ARG002  a hook's signature
        """Return the accumulation that frees each gradient as soon as it is ready."""
        return Accumulation(adds=False, release=self)

    def ready(self, grad: Tensor) -> None:
        """Do nothing before the gradient is accumulated."""

    def accumulated(self, name: str, grad_list: list[Tensor]) -> None:
        """Step the parameter's optimizer. The caller frees the gradient."""
        tape = grad_list[0].tape
        outer, tape.component = tape.component, "workspace"
        scope, tape.scope = tape.scope, ""
        self._update(tape, _parameter(name, grad_list[0]), grad_list)
        tape.component, tape.scope = outer, scope

    def _update(self, tape: Tape, p: ResidentTensor, grad_list: list[Tensor]) -> None:
        optimizer, loop = self._optimizer, LOOPS.get(self._optimizer.name)
        if optimizer.projects and optimizer.storage == "8bit":
            low_rank.galore_8bit(tape, p, optimizer, grad_list)
            return
        if loop is not None:
            loop(tape, [p], optimizer)
            return
        temporaries = [tape.new(p.shape, p.dtype, "optimizer temporary") for _ in range(optimizer.temporaries)]
        del temporaries


class LomoHooks(ReleasingHooks):
    """Hooks that update the parameter whose gradient was accumulated last, when the next gradient is ready.

    They then free that gradient.
    """

    __slots__ = ("_pending",)

    #: The layer after a layer frees its last gradient.
    couples_layers = True

    def __init__(self, optimizer: Optimizer) -> None:
        super().__init__(optimizer)
        #: The parameter that waits for its update, and its gradient.
        self._pending: list[tuple[str, Tensor]] = []

    def repetition(self, classes: Sequence[int]) -> Repetition:
        """Return the layers to interpret.

        The last layer is interpreted by itself, because the final norm's gradient waits when its backward pass begins.
        """
        return repetition_before_last(classes)

    def roots(self, loss: Tensor) -> Iterator[Tensor]:
        """Scale the loss, as AdaLomo.fused_backward does."""
        yield loss
        if self._optimizer.name == "adalomo" and loss.edge is not None:
            outer, loss.tape.component = loss.tape.component, "logits_and_loss"
            yield ops.scale(loss, "loss, scaled")
            loss.tape.component = outer

    def ready(self, grad: Tensor) -> None:
        """Update the parameter whose gradient was accumulated last, before this gradient is accumulated."""
        self._step(grad.tape)

    def accumulated(self, name: str, grad_list: list[Tensor]) -> None:
        """Keep the gradient until the next one is ready."""
        self._pending.append((name, grad_list.pop()))

    def after_backward(self) -> None:
        """Update the last parameter."""
        if self._pending:
            self._step(self._pending[0][1].tape)

    def _step(self, tape: Tape) -> None:
        if not self._pending:
            return
        outer, tape.component = tape.component, "workspace"
        scope, tape.scope = tape.scope, ""
        p = _parameter(*self._pending[0])
        grad: Tensor | None = self._pending[0][1] if p.dtype == "float32" else lomo.in_float32(tape, p)
        self._pending.clear()
        LOOPS[self._optimizer.name](tape, [p], self._optimizer)
        del grad
        tape.component, tape.scope = outer, scope


def _parameter(name: str, grad: Tensor) -> ResidentTensor:
    return ResidentTensor(name=name, shape=grad.shape, dtype=grad.dtype, component="workspace")


def releasing_hooks(prepared: PreparedModel) -> ReleasingHooks | None:
    """Return the hooks of a run that updates parameters in the backward pass, or None for other runs."""
    training = prepared.training
    if not updates_in_backward(training):
        return None
    optimizer = with_projection(OPTIMIZERS[training.optimizer], prepared.model, training)
    return (LomoHooks if optimizer.in_backward and not optimizer.layerwise else ReleasingHooks)(optimizer)
