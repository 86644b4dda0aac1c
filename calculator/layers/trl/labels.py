"""The number of labeled tokens: tokens whose next token has a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named

if TYPE_CHECKING:
    from calculator.architecture.dimension import Dim
    from calculator.layers.context import Context


def labeled_tokens(context: Context) -> Dim:
    """Return the number of labeled tokens.

    It is `completion_tokens`, or all tokens of the completions, or all tokens that follow another one in a sequence.
    A prompt has a token and the images, if the request says no more. The first token of a sequence without a prompt
    follows virtual tokens that are embeddings.
    """
    training = context.training
    if training.completion_tokens is not None:
        return named(training.completion_tokens, "completion_tokens")
    if training.flattened:
        return named(training.micro_batch_size * training.sequence_length - training.samples, "B · S - samples")
    predicts_first = context.method.embeds_inputs and not context.prepared.has_prompts
    predicted = training.sequence_length - (not predicts_first)
    if training.max_completion_length is not None:
        predicted = training.max_completion_length
    elif training.images is not None and training.has_images and context.prepared.has_prompts:
        predicted -= training.images.images_per_sequence * context.image.length
    return named(training.micro_batch_size * context.prepared.sequences_per_row * predicted, "N")
