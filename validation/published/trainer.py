"""The step of an HF Trainer with transformers before 5, whose loss shifts the logits rather than the labels.

Its loss copies the float32 logits without each sequence's last position, so that a third matrix as large as the
log-probabilities lives in the forward pass, beside the last norm's output and, from 4.46 on, the half-precision logits:
the forward pass may then hold more than the backward. Before 4.46 the float32 logits take the half ones' name, which
frees them. The Trainer keeps no loss, so that nothing of a step's graph lives on after it.

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

#: The rows of the calculator's loss that an older loss has otherwise.
FLOAT32_LOGITS = "loss: logits in float32"
LOG_PROBABILITIES = "loss: log-probabilities"
CAST_BACK = "loss: cast: gradient"


class OlderLoss:
    """A micro-batch's events with the older loss; `keeps_half` says whether half-precision logits stay beside it."""

    def __init__(self, request: Request, model: Model, *, keeps_half: bool) -> None:
        self.told = events(resident_state(request).prepared)
        self.rows: list[Allocation] = list(self.told.rows)
        self.named = {born[0]: row for row, born in enumerate(self.rows)}
        self.half = self.named[f"{model.head}: output"]
        self.keeps_half = keeps_half
        training = request.training
        self.vocabulary = int(model.config["vocab_size"])
        self.batch, self.length = training.micro_batch_size, training.sequence_length

    def events(self) -> Events:
        """The same step with the copy, and with nothing left at its end."""
        shifted = self._new("loss: logits, shifted", self.length - 1)
        unshifted = self._new("loss: gradient of the logits, unshifted", self.length)
        return Events(
            rows=self.rows,
            forward=self._forward(shifted),
            backward=[*self._backward(unshifted), *(~row for row in self.told.left)],
            gradients=self.told.gradients,
            left=(),
        )

    def _new(self, name: str, length: int) -> int:
        size = rounded(self.batch * length * self.vocabulary * ITEMSIZE["float32"])
        self.rows.append((name, (self.batch, length, self.vocabulary), "float32", "logits_and_loss", size))
        return len(self.rows) - 1

    def _forward(self, shifted: int) -> list[int]:
        """The copy lives from before the log-probabilities until the float32 logits go."""
        logits = self.named[FLOAT32_LOGITS]
        dropped = [] if self.keeps_half else [~self.half]
        around = {logits: [logits, *dropped], self.named[LOG_PROBABILITIES]: [shifted, self.named[LOG_PROBABILITIES]]}
        around[~logits] = [~shifted, ~logits]
        if dropped:
            around[~self.half] = []
        return [new for event in self.told.forward for new in around.get(event, (event,))]

    def _backward(self, unshifted: int) -> list[int]:
        """The gradient is put among zeros of the unshifted shape before it is cast back."""
        cast = self.named[CAST_BACK]
        return [
            new
            for event in self.told.backward
            for new in ((unshifted, event, ~unshifted) if event == cast else (event,))
        ]


def peaks(request: Request, told: Events) -> dict[str, int]:
    """The most that is allocated in each phase, library workspaces left out, bytes."""
    step = training_step(request)
    resident = step.resident
    always = sum(tensor.bytes for tensor in (*resident.tensors, *resident.optimizer_states))
    alive = list(accumulate(_sizes(told), initial=0))
    middle = len(told.forward)
    update = step.peaks()[2]
    return {
        "forward": always + max(alive[: middle + 1]),
        "backward": always + max(alive[middle:]),
        "optimizer_step": update.bytes - sum(row[4] * count for row, count in update.left.items()),
    }


def _sizes(told: Events) -> list[int]:
    passes = (*told.forward, *told.backward)
    return [told.rows[event][4] if event >= 0 else -told.rows[~event][4] for event in passes]


def max_reserved(request: Request, told: Events, workspaces: tuple[int, int]) -> int:
    """The most that is reserved once steps take nothing more, bytes."""
    run = Replay(CachingAllocator(), resident_state(request), workspaces)
    run.first = Batch(run.allocator, told)
    run.load()
    before = 0
    while run.steps < 2 or (run.allocator.reserved > before and run.steps < MAX_STEPS):
        before = run.allocator.reserved
        run.step()
    return run.allocator.max_reserved
