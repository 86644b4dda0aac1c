"""The reference step: a plain PyTorch loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import autocast
from calculator.layers.classification import ClassificationLoss
from calculator.layers.loss import FullLogits
from calculator.layers.seq2seq import Seq2SeqLoss, target_length
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.facts import TrainerFacts
from calculator.trainers.loop import Loop

if TYPE_CHECKING:
    from calculator.common.names import TrainerName
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Passes


class Reference(Loop):
    """A loop that calls the model, `loss.backward()` and the optimizer, and keeps the batch and the loss."""

    __slots__ = ()
    name: ClassVar[TrainerName | None] = None
    facts = TrainerFacts(
        label="Reference step",
        source="validation/tracing/step.py",
        summary="A plain PyTorch loop: the model's forward pass, loss.backward(), gradient clipping and the optimizer.",
        assumptions=("Data loading, evaluation and what a Trainer adds are not counted.",),
    )

    def batch(self, context: Context) -> list[Tensor]:
        """Return input_ids, which are a language model's labels too, a mask for padding, and a classifier's labels."""
        shape = (context.batch, context.length)
        names = ("input_ids", "attention_mask") if context.training.padding else ("input_ids",)
        batch = [context.tape.new(shape, "int64", name) for name in names]
        if context.model.task.name != "causal_lm":
            context.labels = _labels(context)
            batch.append(context.labels)
        return batch

    def head(self, context: Context) -> LossHead:
        """Return the model's own head and loss."""
        if context.labels is None:
            return FullLogits()
        head = ClassificationLoss if context.model.task.classifies else Seq2SeqLoss
        return head(context.labels)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model under autocast and keep nothing but its loss."""
        with autocast.region(context.tape, context.training.autocast):
            loss, outputs = forward()
            return returned(context, loss, outputs)[0]

    def left(self, batch: list[Tensor], loss: Tensor) -> list[Tensor]:
        """Return the batch, and the loss with its graph."""
        return [*batch, loss]


def _labels(context: Context) -> Tensor:
    """Make labels: the tokens of a target, or a classifier's number for each sequence or output.

    The latter are in the dtype of the scores.
    """
    task, batch = context.model.task, context.batch
    if not task.classifies:
        return context.tape.new((batch, target_length(context)), "int64", "labels")
    if task.loss == "single_label_classification":
        return context.tape.new((batch,), "int64", "labels")
    outputs = context.model.output.out_features
    shape = (batch,) if task.loss == "regression" and outputs == 1 else (batch, outputs)
    return context.tape.new(shape, context.training.dtype, "labels")
