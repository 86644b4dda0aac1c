"""The heads and losses of models that classify tokens, and of models that find an answer in a text.

Sources: transformers/modeling_layers.py, GenericForTokenClassification and GenericForQuestionAnswering;
transformers/loss/loss_utils.py, ForTokenClassification and ForQuestionAnsweringLoss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import operations as ops
from calculator.layers.loss import cross_entropy, float32_logits

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


class TokenClassificationLoss:
    """The head of a model for token classification and its loss."""

    __slots__ = ("labels",)

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the logits, which the model's output refers to."""
        logits = _logits(context, hidden_states)
        context.set_scope("loss: ")
        batch, length, outputs = logits.shape
        flat = ops.view(logits, (named(batch * length, "B × S"), outputs))
        if context.forward.casts_token_logits:
            flat = float32_logits(context, flat)
        return cross_entropy(flat, self.labels), [logits]


class QuestionAnsweringLoss:
    """The head of a model for extractive question answering and its loss.

    It is the mean of the losses of an answer's first and last token.
    """

    __slots__ = ("end_positions", "start_positions")

    def __init__(self, start_positions: Tensor, end_positions: Tensor) -> None:
        self.start_positions = start_positions
        self.end_positions = end_positions

    def __call__(self, context: Context, hidden_states: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return the loss, and the scores of first and last tokens, which the model's output refers to."""
        logits = _logits(context, hidden_states)
        context.set_scope("loss: ")
        batch, length, _ = logits.shape
        start_logits, end_logits = (
            ops.contiguous(ops.view(part, (batch, length)), f"{name}_logits")
            for name, part in zip(("start", "end"), ops.split(logits, [(batch, length, 1)] * 2), strict=True)
        )
        starts = context.tape.new(self.start_positions.shape, "int64", "start_positions, clamped")
        ends = context.tape.new(self.end_positions.shape, "int64", "end_positions, clamped")
        start_loss, end_loss = cross_entropy(start_logits, starts), cross_entropy(end_logits, ends)
        loss = ops.scale(ops.add(start_loss, end_loss, "sum of losses"), "loss")
        context.forward_locals.append(logits)
        return loss, [start_logits, end_logits]


def _logits(context: Context, hidden_states: Tensor) -> Tensor:
    """Apply the head's dropout and the head.

    The decoder's output stays alive until the forward pass ends.
    """
    context.forward_locals.append(hidden_states)
    hidden_states = context.forward.before_token_head(context, hidden_states)
    dropped = ops.dropout(hidden_states, context.config["head_dropout"], "hidden states, dropped")
    context.forward_locals.append(dropped)
    return context.bind(context.model.output)(dropped)
