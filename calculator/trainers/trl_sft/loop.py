"""The micro-batch of TRL's SFTTrainer, whose loss depends on the release of TRL.

Source: trl/trainer/sft_trainer.py, compute_loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import autocast
from calculator.engine import operations as ops
from calculator.layers.trl.fused_head import fused_head
from calculator.trainers.transformers.loop import Transformers
from calculator.trainers.trl_sft.facts import FACTS

if TYPE_CHECKING:
    from calculator.common.names import TrainerName
    from calculator.layers.context import Context
    from calculator.engine.tape import Tensor
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Forward


class TrlSft(Transformers):
    """trl.SFTTrainer, a subclass of transformers.Trainer."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "trl-sft"
    facts = FACTS

    def head(self, context: Context) -> LossHead:
        """Return the head that the release of TRL puts on the model."""
        return fused_head

    def loss(self, context: Context, forward: Forward) -> Tensor:
        """Run the model and reduce its log-probabilities. The metrics are scalars."""
        tape = context.tape
        with autocast.region(tape, context.training.autocast):
            model_loss, outputs = forward()
        tape.scope, tape.component = "loss: ", "logits_and_loss"
        per_token_loss = ops.scale(outputs[0], "loss of each token")
        total = ops.sum_over(per_token_loss, (), "loss, summed")
        loss = ops.mul(total, tape.new((), "float32", "labels in the step, at least 1"), "loss, divided")
        del total
        loss = ops.scale(loss, "loss × processes")
        metrics = [tape.new((), "float32", name) for name in ("labels", "entropy, summed", "correct tokens")]
        tape.component = "activations"
        del model_loss, metrics
        return loss
