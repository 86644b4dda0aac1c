"""The number of positions that a model can run, and checks of a request's sequence length against it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.architecture.per_model import per_model
from calculator.common.errors import Problem
from calculator.estimation import audio_requests, image_classification
from calculator.estimation.sample_lengths import uncut
from calculator.families import forward_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request


@per_model
def most_positions(model: Model) -> int | None:
    """Return the maximum number of positions that a model can run, or None if there is no limit.

    The limit comes from learned position embeddings, which are the second embedding outside the layers apart from
    Gemma's inputs of each layer. It may also come from the family's attention bias, or from how many steps of a
    position-by-position layer are followed.
    """
    forward = forward_of(model)
    if forward.positions_followed is not None:
        return forward.positions_followed
    tables = [
        name
        for name, part in model.outer.items()
        if part.kind == "embedding" and model.reads_text(name) and not name.endswith("_per_layer")
    ]
    bounded = len(tables) > 1 or forward.limited_to_max_positions
    return model.config.get("usable_positions", model.config.get("max_position_embeddings")) if bounded else None


def positions_reason(model: Model, most: int) -> str:
    """Return the reason for the limit of `most_positions`, as a clause that ends in the number of positions."""
    if forward_of(model).positions_followed is None:
        return f"the model has {most:,}"
    return f"{model.model_type} runs one position after the other, which is modeled up to {most:,}"


def within_positions(request: Request, model: Model) -> Request:
    """Return the request with its default sequence length: that of the longest sample, or the model's limit.

    The model's config determines the number of tokens of an image or of audio.
    """
    if model.task.name == "image_cls":
        return image_classification.with_tokens(request, model)
    if model.reads_audio:
        return audio_requests.with_lengths(request, model)
    request = uncut(request)
    most = None if request.length_given else most_positions(model)
    if most is None:
        return request
    room = max(2, most - request.method.virtual_tokens)
    length = min(request.training.sequence_length, room)
    return replace(request, training=replace(request.training, sequence_length=length))


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield a sequence or a target that is longer than the model can run."""
    most, virtual = most_positions(model), request.method.virtual_tokens
    target = request.training.target_length
    if model.reads_audio:
        return  # audio has a fixed number of positions, and audio_requests checks the target
    if most is not None and target is not None and target > most:
        message = f"{target:,} positions are needed; the model has {most:,} only"
        yield Problem(loc="training.target_length", msg=message, input=target)
    length = request.training.sequence_length + virtual
    if most is not None and length > most:
        including = f", {virtual:,} of them virtual tokens" if virtual else ""
        yield Problem(
            loc="training.sequence_length",
            msg=f"{length:,} positions are needed{including}; {positions_reason(model, most)} only",
            input=request.training.sequence_length,
        )
