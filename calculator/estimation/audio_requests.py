"""Requests for models that write the text of audio. Their config determines the tokens of the audio.

Each refusal names an alternative.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request

#: Modules that are not linear layers, or whose weight another module shares.
NOT_ADAPTED = ("conv1", "conv2", "embed_positions", "proj_out")

#: Settings that a batch of audio does not have, with the values that leave them out.
_OF_TEXT: dict[str, object] = {"padding": False, "sequence_lengths": None}


def with_lengths(request: Request, model: Model) -> Request:
    """Return a request with the number of audio tokens.

    Without a target's length, the most tokens that the model writes are used.
    """
    training = request.training
    if training.target_length is None:
        training = replace(training, target_length=int(model.config["max_position_embeddings"]))
    if not request.length_given:
        training = replace(training, sequence_length=model.config["tokens_of_audio"])
    return replace(request, training=training)


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield every reason why a request for a model of audio is refused."""
    training, method, config = request.training, request.method, model.config
    tokens, most = config["tokens_of_audio"], config["max_position_embeddings"]
    if training.sequence_length != tokens:
        message = (
            f"audio is {tokens:,} tokens, by max_source_positions of the config: leave it out; target_length is the"
            " length of the text"
        )
        yield Problem(loc="training.sequence_length", msg=message, input=training.sequence_length)
    if training.target_length is not None and training.target_length > most:
        message = f"{training.target_length:,} is longer than max_target_positions of the config: at most {most:,}"
        yield Problem(loc="training.target_length", msg=message, input=training.target_length)
    for name, value in _OF_TEXT.items():
        if (given := getattr(training, name)) != value:
            message = f"{model.model_type} reads no mask, and its audio has one length: leave it out"
            yield Problem(loc=f"training.{name}", msg=message, input=given)
    if method.virtual_tokens:
        message = f"PEFT passes no audio to a model with {method.title}: use another method, such as lora"
        yield Problem(loc="method.name", msg=message, input=method.name)
    for field in ("target_modules", "modules_to_save"):
        names = getattr(method, field, None)
        named = sorted(set(NOT_ADAPTED).intersection(names)) if isinstance(names, tuple) else ()
        if named:
            message = f"{', '.join(named)} of {model.model_type} is not modeled: name linear layers of the layers"
            yield Problem(loc=f"method.{field}", msg=message, input=list(names or ()))


def sentence(model: Model) -> str:
    """Return a sentence on the contents of a batch, its number of tokens, and the script's cast of the features."""
    config = model.config
    frames, mels = 2 * int(config["max_source_positions"]), int(config["num_mel_bins"])
    return (
        f"A micro-batch has micro_batch_size input_features of {mels:,} mel bins x {frames:,} frames, to which the"
        f" processor pads or cuts every recording. They are {config['tokens_of_audio']:,} tokens of the encoder. The"
        " script casts them to the dtype of the first convolution, which does not cast them. The labels have"
        " target_length tokens and, shifted right, are the decoder's input. Layers are never dropped at random"
        " (layerdrop)."
    )
