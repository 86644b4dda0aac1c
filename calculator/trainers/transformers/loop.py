"""The micro-batch of transformers' Trainer.

Source: transformers/trainer.py, training_step and compute_loss; accelerate/accelerator.py, backward; and
accelerate/utils/operations.py, convert_outputs_to_fp32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import autocast, in_place
from calculator.engine import operations as ops
from calculator.engine.tape import Tensor
from calculator.layers.liger.loss import FusedLinearCrossEntropy
from calculator.layers.loss import FullLogits
from calculator.trainers.liger import is_patched
from calculator.trainers.loop import Loop
from calculator.trainers.transformers.facts import FACTS

if TYPE_CHECKING:
    from calculator.common.names import TrainerName
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Forward


class Transformers(Loop):
    """transformers.Trainer. Batches and scalars are resident tensors: their tensors here have no storage."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = "transformers"
    facts = FACTS

    def batch(self, context: Context) -> list[Tensor]:
        """Return the tensors of a batch, which was fetched with the others of the step."""
        shape = (context.batch, context.length)
        return [Tensor(context.tape, None, shape, "int64", None) for _ in self.facts.batch]

    def head(self, context: Context) -> LossHead:
        """Return the model's own head and loss, or Liger's, summed and divided by the number of labels in the step."""
        num_items = Tensor(context.tape, None, (), "float32", None)
        if is_patched(context.model, context.training):
            return FusedLinearCrossEntropy(num_items=num_items)
        return FullLogits(num_items=num_items)

    def loss(self, context: Context, forward: Forward) -> Tensor:
        """Run the model. Its autocast ends with it, and then every output that is not float32 is copied to float32."""
        tape, dtype = context.tape, context.training.autocast
        with autocast.region(tape, dtype):
            loss, outputs = forward()
        tape.scope, tape.component = "outputs: ", "logits_and_loss"
        converted = [ops.cast(each, "float32", "output in float32") for each in outputs if dtype is not None]
        del outputs, converted
        tape.component = "activations"
        return in_place.mul_(loss)

    def root(self, loss: Tensor) -> Tensor:
        """Return the loss over the number of accumulation steps that accelerate knows of, which is 1."""
        loss.tape.scope = "loss: "
        return ops.scale(loss, "loss / 1")
