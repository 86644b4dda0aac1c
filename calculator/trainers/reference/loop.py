"""The reference step: a plain PyTorch loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from calculator.engine import autocast
from calculator.layers import embeddings
from calculator.layers.loss import FullLogits
from calculator.trainers import image_batch, task_labels
from calculator.trainers.ddp_outputs import returned
from calculator.trainers.facts import TrainerFacts
from calculator.trainers.loop import Loop

if TYPE_CHECKING:
    from calculator.common.names import TrainerName
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context
    from calculator.layers.loss import LossHead
    from calculator.trainers.loop import Passes
    from calculator.trainers.task_labels import BatchTensor


class Reference(Loop):
    """A loop that calls the model, `loss.backward()` and the optimizer. It keeps the batch and the loss."""

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
        """Return tokens, pixels or audio, a mask if there is padding, and labels if they are not the tokens."""
        if context.model.task.embeds:
            return self._texts(context)
        names = ("input_ids", "attention_mask") if context.training.padding else ("input_ids",)
        batch = _create(context, task_labels.inputs(context.model, context.training, names, context.dtype))
        context.labels = _create(context, task_labels.labels(context.model, context.training))
        context.images = _create(context, image_batch.tensors(context.model, context.training))
        return batch + context.labels + context.images

    def _texts(self, context: Context) -> list[Tensor]:
        """Return tokens and the mask of each text of an example.

        The mask selects the hidden states that are averaged.
        """
        names = ("input_ids", "attention_mask")
        columns = [
            _create(context, task_labels.inputs(context.model, context.training, names, context.dtype))
            for _ in range(context.training.texts_per_example)
        ]
        context.texts = [(ids, mask) for ids, mask in columns]
        return [tensor for column in columns for tensor in column]

    def head(self, context: Context) -> LossHead:
        """Return the model's own head and loss."""
        if context.model.task.name == "causal_lm":
            return FullLogits()
        return task_labels.head(context.model, context.labels)

    def loss(self, context: Context, forward: Passes) -> Tensor:
        """Run the model under autocast, and keep only its loss."""
        with autocast.region(context.tape, context.training.autocast):
            if context.model.task.embeds:
                return _embedding_loss(context, forward)
            loss, outputs = forward()
            context.drop_outputs()
            return returned(context, loss, outputs)[0]

    def retained(self, batch: list[Tensor], loss: Tensor) -> list[Tensor]:
        """Return the batch, and the loss with its graph."""
        return [*batch, loss]


def _embedding_loss(context: Context, forward: Passes) -> Tensor:
    """Embed each text of the examples with its own forward pass, and return the loss of the embeddings."""
    rows = []
    for number, (ids, mask) in enumerate(context.texts, start=1):
        hidden_states = forward.run_again("" if number == len(context.texts) else f"text {number}: ", ids)[0]
        context.tape.component = "logits_and_loss"
        rows.append(embeddings.mean_of_tokens(hidden_states, mask))
        context.tape.component = "activations"
        del hidden_states
    context.tape.component = "logits_and_loss"
    loss = embeddings.ranking_loss(context, rows)
    context.tape.component = "activations"
    return loss


def _create(context: Context, tensors: list[BatchTensor]) -> list[Tensor]:
    return [context.tape.new(shape, dtype, name) for name, shape, dtype in tensors]
