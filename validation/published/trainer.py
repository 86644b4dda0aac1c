"""The step of the Hugging Face Trainer with transformers before 5, whose loss shifts the logits instead of the labels.

Its loss copies the float32 logits without each sequence's last position. So a third matrix as large as the
log-probabilities is alive in the forward pass, next to the last norm's output and, from 4.46 on, the half-precision
logits; the forward peak may then exceed the backward peak. Before 4.46 the float32 logits are assigned to the name of
the half-precision logits, which frees those. The Trainer keeps no loss, so nothing of a step's graph outlives the step.

Source: transformers 4.48.1, loss/loss_utils.py, ForCausalLMLoss; 4.45.2, models/mistral/modeling_mistral.py and
trainer.py, training_step, whose caller gets `loss.detach()`.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.replay import MAX_STEPS, Batch, Replay
from calculator.common.dtype import ITEMSIZE, rounded
from calculator.estimate.estimate import resident_state, training_step
from calculator.training_step.unrolled import Events, events

if TYPE_CHECKING:
    from calculator.architecture.model import Model
    from calculator.engine.tape import Allocation
    from calculator.estimate.request import Request

#: The rows of the calculator's loss that differ in the older loss.
FLOAT32_LOGITS = "loss: logits in float32"
LOG_PROBABILITIES = "loss: log-probabilities"
CAST_BACK = "loss: cast: gradient"


class OlderLoss:
    """A micro-batch's events with the older loss; with `keeps_half`, the half-precision logits stay alive during it."""

    def __init__(self, request: Request, model: Model, *, keeps_half: bool) -> None:
        self.step = events(resident_state(request).prepared)
        self.rows: list[Allocation] = list(self.step.rows)
        self.named = {allocation[0]: row for row, allocation in enumerate(self.rows)}
        self.half = self.named[f"{model.head}: output"]
        self.keeps_half = keeps_half
        training = request.training
        self.vocabulary = int(model.config["vocab_size"])
        self.batch, self.length = training.micro_batch_size, training.sequence_length

    def events(self) -> Events:
        """The same events with the copy, and with nothing left alive at the end."""
        shifted = self._new("loss: logits, shifted", self.length - 1)
        unshifted = self._new("loss: gradient of the logits, unshifted", self.length)
        return Events(
            rows=self.rows,
            forward=self._forward(shifted),
            backward=[*self._backward(unshifted), *(~row for row in self.step.left)],
            gradients=self.step.gradients,
            left=(),
        )

    def _new(self, name: str, length: int) -> int:
        size = rounded(self.batch * length * self.vocabulary * ITEMSIZE["float32"])
        self.rows.append((name, (self.batch, length, self.vocabulary), "float32", "logits_and_loss", size))
        return len(self.rows) - 1

    def _forward(self, shifted: int) -> list[int]:
        """The forward events: the copy is alive from the log-probabilities until the float32 logits are freed."""
        logits = self.named[FLOAT32_LOGITS]
        dropped = [] if self.keeps_half else [~self.half]
        around = {logits: [logits, *dropped], self.named[LOG_PROBABILITIES]: [shifted, self.named[LOG_PROBABILITIES]]}
        around[~logits] = [~shifted, ~logits]
        if dropped:
            around[~self.half] = []
        return [new for event in self.step.forward for new in around.get(event, (event,))]

    def _backward(self, unshifted: int) -> list[int]:
        """The backward events: the gradient is copied into zeros of the unshifted shape before it is cast."""
        cast = self.named[CAST_BACK]
        return [
            new
            for event in self.step.backward
            for new in ((unshifted, event, ~unshifted) if event == cast else (event,))
        ]


def peaks(request: Request, older: Events) -> dict[str, int]:
    """The most bytes allocated in each phase with the older loss, without library workspaces."""
    step = training_step(request)
    resident = step.resident
    always = sum(tensor.bytes for tensor in (*resident.tensors, *resident.optimizer_states))
    alive = list(accumulate(_sizes(older), initial=0))
    middle = len(older.forward)
    update = step.peaks()[2]
    return {
        "forward": always + max(alive[: middle + 1]),
        "backward": always + max(alive[middle:]),
        "optimizer_step": update.bytes - sum(row[4] * count for row, count in update.left.items()),
    }


def _sizes(step: Events) -> list[int]:
    passes = (*step.forward, *step.backward)
    return [step.rows[event][4] if event >= 0 else -step.rows[~event][4] for event in passes]


def max_reserved(request: Request, step: Events, workspaces: tuple[int, int]) -> int:
    """The most bytes reserved, after enough steps that the reserved bytes stop growing."""
    run = Replay(CachingAllocator(), resident_state(request), workspaces)
    run.first = Batch(run.allocator, step)
    run.load()
    before = 0
    while run.steps < 2 or (run.allocator.reserved > before and run.steps < MAX_STEPS):
        before = run.allocator.reserved
        run.step()
    return run.allocator.max_reserved
