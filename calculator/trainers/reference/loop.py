"""The reference step: a plain PyTorch loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, assert_never

from calculator.architecture.dimension import named
from calculator.engine import autocast
from calculator.layers.classification import ClassificationLoss
from calculator.layers.loss import FullLogits
from calculator.layers.seq2seq import Seq2SeqLoss, target_length
from calculator.layers.token_heads import QuestionAnsweringLoss, TokenClassificationLoss
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
        keeps_loss=True,
        assumptions=("Data loading, evaluation and what a Trainer adds are not counted.",),
    )

    def batch(self, context: Context) -> list[Tensor]:
        """Return input_ids or pixel_values, a mask for padding, and the labels of tasks other than the tokens."""
        batch = _inputs(context)
        context.labels = _labels(context)
        context.images = _images(context)
        return batch + context.labels + context.images

    def head(self, context: Context) -> LossHead:
        """Return the model's own head and loss."""
        match context.model.task.name:
            case "causal_lm":
                return FullLogits()
            case "seq_cls" | "image_cls":
                return ClassificationLoss(*context.labels)
            case "token_cls":
                return TokenClassificationLoss(*context.labels)
            case "question_ans":
                return QuestionAnsweringLoss(*context.labels)
            case "seq_2_seq_lm":
                return Seq2SeqLoss(*context.labels)
            case _ as never:
                assert_never(never)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model under autocast and keep nothing but its loss."""
        with autocast.region(context.tape, context.training.autocast):
            loss, outputs = forward()
            return returned(context, loss, outputs)[0]

    def left(self, batch: list[Tensor], loss: Tensor) -> list[Tensor]:
        """Return the batch, and the loss with its graph."""
        return [*batch, loss]


def _inputs(context: Context) -> list[Tensor]:
    """Make the tokens of sequences, with a mask for padding; or the pixels of images."""
    tape, config = context.tape, context.config
    if context.model.task.name == "image_cls":
        side = config["image_size"]
        return [tape.new((context.batch, config["num_channels"], side, side), "float32", "pixel_values")]
    names = ("input_ids", "attention_mask") if context.training.padding else ("input_ids",)
    return [tape.new((context.batch, context.length), "int64", name) for name in names]


def _images(context: Context) -> list[Tensor]:
    """Make what a batch has because of its images."""
    tower = context.forward.tower
    if tower is None or not context.training.has_images:
        return []
    tensors = tower.batch(context, context.image, context.image_count)
    return [context.tape.new(shape, dtype, name) for name, shape, dtype in tensors]


def _labels(context: Context) -> list[Tensor]:
    """Make labels, in whole numbers except for a classifier of sequences with several or real ones."""
    tape, batch = context.tape, context.batch
    match context.model.task.name:
        case "causal_lm":
            return []
        case "seq_cls" | "image_cls":
            return [_labels_of_sequences(context)]
        case "token_cls":
            return [tape.new((batch, context.length), "int64", "labels")]
        case "question_ans":
            return [tape.new((batch,), "int64", name) for name in ("start_positions", "end_positions")]
        case "seq_2_seq_lm":
            return [tape.new((batch, target_length(context)), "int64", "labels")]
        case _ as never:
            assert_never(never)


def _labels_of_sequences(context: Context) -> Tensor:
    """Make a number for each sequence, or one in the dtype of the scores for each output."""
    task, batch = context.model.task, context.batch
    outputs = named(task.num_labels, "num_labels")
    if task.loss == "single_label_classification":
        return context.tape.new((batch,), "int64", "labels")
    shape = (batch,) if task.loss == "regression" and outputs == 1 else (batch, outputs)
    return context.tape.new(shape, context.training.dtype, "labels")
