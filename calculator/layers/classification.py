"""The heads and losses of models that classify sequences.

Source: transformers/loss/loss_utils.py, ForSequenceClassificationLoss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.layers.loss import cross_entropy
from calculator.layers.problem_types import binary_cross_entropy_with_logits, mse_loss
from calculator.layers.sequence_score import score_of_last_token

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


class ScoredSequences:
    """The head of a model for sequence classification without its loss.

    The scores also stand in for the loss.
    """

    __slots__ = ()

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the scores (sequences, num_labels)."""
        scores = _scores(context, hidden_states)
        return scores, [scores]


class ClassificationLoss:
    """The head of a model for sequence classification and its loss."""

    __slots__ = ("labels", "num_items")

    def __init__(self, labels: Tensor, num_items: Tensor | None = None) -> None:
        self.labels = labels
        #: The number of labels in a step, by which the sum is divided. None for the mean over the micro-batch.
        self.num_items = num_items

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the scores, which the model's output refers to."""
        context.forward_locals.append(hidden_states)
        scores = _scores(context, hidden_states)
        context.set_scope("loss: ")
        return self._loss(context, scores), [scores]

    def _loss(self, context: Context, scores: Tensor) -> Tensor:
        task, default_loss = context.model.task, context.forward.default_loss
        if default_loss is not None and task.problem_type is None and task.loss == "single_label_classification":
            return default_loss(context, scores, self.labels)
        match task.loss:
            case "single_label_classification":
                loss = cross_entropy(scores, self.labels)
                return loss if self.num_items is None else ops.mul(loss, self.num_items, "loss, divided")
            case "multi_label_classification":
                return binary_cross_entropy_with_logits(scores, self.labels)
            case "regression":
                single = scores.shape[1] == 1
                return mse_loss(ops.view(scores, scores.shape[:1]) if single else scores, self.labels)


def _scores(context: Context, hidden_states: Tensor) -> Tensor:
    return (context.forward.scores or score_of_last_token)(context, hidden_states)
