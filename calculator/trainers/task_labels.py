"""The tensors of a batch for a task other than causal language modeling, and the loss that is computed from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from calculator.architecture.dimension import named
from calculator.layers.classification import ClassificationLoss
from calculator.layers.embeddings import LastHiddenState
from calculator.layers.seq2seq import Seq2SeqLoss
from calculator.layers.token_heads import QuestionAnsweringLoss, TokenClassificationLoss

#: The names of labels.
LABELS = ("labels", "start_positions", "end_positions")

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim, Shape
    from calculator.architecture.model import Model
    from calculator.common.dtype import DType
    from calculator.common.names import TaskName
    from calculator.engine.tape import Tensor
    from calculator.inputs.training import Training
    from calculator.layers.loss import LossHead

    #: The name, shape and dtype of a tensor.
    BatchTensor = tuple[str, Shape, DType]


def inputs(model: Model, training: Training, names: tuple[str, ...], dtype: DType) -> list[BatchTensor]:
    """Return the named tensors with a number for each token, or the features of images or audio.

    `dtype` is that of the hidden states, which audio features have too.
    """
    batch = named(training.micro_batch_size, "B")
    if model.reads_audio:
        frames = 2 * model.config["max_source_positions"]
        return [("input_features", (batch, model.config["num_mel_bins"], frames), dtype)]
    if model.task.name == "image_cls":
        side = model.config["image_size"]
        return [("pixel_values", (batch, model.config["num_channels"], side, side), "float32")]
    return [(name, (batch, named(training.sequence_length, "S")), "int64") for name in names]


def labels(model: Model, training: Training) -> list[BatchTensor]:
    """Return the labels.

    They are integers, except those of a classifier with several labels or with real values.
    """
    task = model.task.name
    if task == "causal_lm" or task == "feature_extraction":  # noqa: PLR1714  narrows the type
        return []
    batch, length = named(training.micro_batch_size, "B"), named(training.sequence_length, "S")
    match task:
        case "seq_cls" | "image_cls":
            return [_classifier_labels(model, training, batch)]
        case "token_cls":
            return [("labels", (batch, length), "int64")]
        case "question_ans":
            return [(name, (batch,), "int64") for name in ("start_positions", "end_positions")]
        case "seq_2_seq_lm":
            target = training.sequence_length if training.target_length is None else training.target_length
            return [("labels", (batch, named(target, "T")), "int64")]
        case _ as never:
            assert_never(never)


def _classifier_labels(model: Model, training: Training, batch: Dim) -> BatchTensor:
    """Return a label for each example, or a value in the dtype of the scores for each output."""
    task = model.task
    if task.loss == "single_label_classification":
        return "labels", (batch,), "int64"
    outputs = named(task.num_labels, "num_labels")
    shape = (batch,) if task.loss == "regression" and outputs == 1 else (batch, outputs)
    return "labels", shape, training.dtype


def output_names(task: TaskName) -> tuple[str, ...]:
    """Return the names of the model's outputs that a trainer gathers in evaluation."""
    match task:
        case "question_ans":
            return ("start_logits", "end_logits")
        case "seq_2_seq_lm":
            return ("logits", "encoder_last_hidden_state")
        case "causal_lm" | "seq_cls" | "image_cls" | "token_cls":
            return ("logits",)
        case "feature_extraction":
            return ()
        case _ as never:
            assert_never(never)


def head(model: Model, given: list[Tensor], num_items: Tensor | None = None) -> LossHead:
    """Return the head of a task's model, with the loss of the labels of a batch.

    `num_items` is the number of labels in a step. Only ViT's code passes it on to its loss.
    """
    match model.task.name:
        case "seq_cls":
            return ClassificationLoss(*given)
        case "image_cls":
            return ClassificationLoss(given[0], num_items)
        case "token_cls":
            return TokenClassificationLoss(*given)
        case "question_ans":
            return QuestionAnsweringLoss(*given)
        case "seq_2_seq_lm":
            return Seq2SeqLoss(*given)
        case "feature_extraction":
            return LastHiddenState()
        case "causal_lm":
            raise AssertionError("a language model's labels are its tokens")
        case _ as never:
            assert_never(never)
