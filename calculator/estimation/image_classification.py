"""Requests for models that classify images. Their config determines the tokens of an image.

Each refusal gives a reason and an alternative.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request

#: Settings that a batch of images does not have, with the values that leave them out.
_OF_TEXT: dict[str, object] = {"padding": False, "sequence_lengths": None}


def with_tokens(request: Request, model: Model) -> Request:
    """Return a request with the number of tokens of an image if it has no sequence length.

    The tokens are the patches and the class token.
    """
    if request.length_given:
        return request
    training = replace(request.training, sequence_length=model.config["tokens_of_image"])
    return replace(request, training=training)


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield every reason why a request for a model that classifies images is refused."""
    training, method, tokens = request.training, request.method, model.config["tokens_of_image"]
    if training.sequence_length != tokens:
        side, patch = model.config["image_size"], model.config["patch_size"]
        message = (
            f"an image is {tokens:,} tokens, by image_size {int(side):,} and patch_size {int(patch):,} of the config:"
            " leave it out"
        )
        yield Problem(loc="training.sequence_length", msg=message, input=training.sequence_length)
    for name, value in _OF_TEXT.items():
        if (given := getattr(training, name)) != value:
            yield Problem(loc=f"training.{name}", msg="images have no padding and one size: leave it out", input=given)
    if method.virtual_tokens or method.name == "trainable_tokens":
        message = f"{model.model_type} has no word embeddings for {method.title}: use another method, such as lora"
        yield Problem(loc="method.name", msg=message, input=method.name)

    if getattr(method, "trainable_token_indices", None):
        message = f"{model.model_type} has no word embeddings: leave it out"
        yield Problem(loc="method.trainable_token_indices", msg=message, input=None)


def sentence(model: Model) -> str:
    """Return a sentence on the contents of a batch, and on what determines the number of tokens."""
    config = model.config
    side, patch = int(config["image_size"]), int(config["patch_size"])
    return (
        f"A micro-batch has micro_batch_size images of {side:,} x {side:,} pixels, in float32 as the processor makes"
        f" them. An image is {config['tokens_of_image']:,} tokens: {config['tokens_of_image'] - 1:,} patches of"
        f" {patch:,} x {patch:,} pixels and the class token."
    )
