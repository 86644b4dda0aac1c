"""Requests with images: what is refused, and what the figures assume.

Each refusal gives a reason and an alternative.
"""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from calculator.common.errors import PlanError, Problem
from calculator.families import FAMILIES, forward_of
from calculator.inputs.images import Images
from calculator.inputs.stack import DEFAULT_STACK
from calculator.methods.prepared_model import PreparedModel
from calculator.trainers import trainer_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.inputs.training import Training
    from calculator.layers.tower import Processed
    from calculator.trainers.facts import TrainerFacts

#: The maximum number of chunks of patches that a layer of a tower attends to one by one, in a micro-batch.
MOST_CHUNKS = 4096

_LOC = "training.images"

#: The note on a convolution whose stride is its kernel size. It holds for any of cuDNN's algorithms.
CONVOLUTION = "Memory that the convolution of patches may need in addition to its result is not counted."


def image_families() -> tuple[str, ...]:
    """Return the model types whose images are modeled."""
    return tuple(
        name for name, family in sorted(FAMILIES.items()) if family.forward is not None and family.forward.tower
    )


def problems(request: Request, model: Model, images: Images) -> Iterator[Problem]:
    """Yield every reason why a request with images is refused."""
    training = request.training
    if not training.has_images:
        yield from _without_number(images)
        return
    if request.task != "causal_lm" or forward_of(model).tower is None:
        yield _unread(request, model)
        return
    yield from _stack_problems(request)
    if training.attention == "eager":
        message = "images are modeled with sdpa and flash_attention_2: use sdpa"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
    if training.sequence_lengths is not None:
        message = "images are modeled for sequences of one length: leave sequence_lengths out, or leave images out"
        yield Problem(loc="training.sequence_lengths", msg=message, input=training.sequence_lengths)
    if request.method.virtual_tokens:
        message = f"{request.method.facts.label} with images is not modeled yet: use another method, such as lora"
        yield Problem(loc="method.name", msg=message, input=request.method.name)
    yield from _without_gradient(request, model)
    try:
        image = processed(request, model)
    except PlanError as error:
        yield from error.problems
        return
    yield from _sizes(request, model, image, images)


def processed(request: Request, model: Model) -> Processed:
    """Return an image of a request as the processor passes it to the model.

    Raises:
        PlanError: if the processor refuses it.
    """
    tower, images = forward_of(model).tower, request.training.images
    assert tower is not None
    assert images is not None
    return tower.process(model.config, images)


def _without_number(images: Images) -> Iterator[Problem]:
    """Yield settings of images in a request without images."""
    for field in fields(Images):
        value = getattr(images, field.name)
        if value != field.default:
            message = "there are no images: set images_per_sequence to 1 or more, or leave this out"
            yield Problem(loc=f"{_LOC}.{field.name}", msg=message, input=value)


def _unread(request: Request, model: Model) -> Problem:
    """Return why images are refused for a model or a task that does not read them."""
    images = request.training.images
    value = asdict(images) if images is not None else None
    families = ", ".join(image_families())
    if request.task != "causal_lm":
        return Problem(loc=_LOC, msg=f"{request.task} with images is not modeled: leave images out", input=value)
    if model.towers:
        message = f"the images of {model.model_type} are not modeled yet: leave images out, or use {families}"
        return Problem(loc=_LOC, msg=message, input=value)
    message = f"{model.model_type} has no vision tower: leave images out, or use a model of the types {families}"
    return Problem(loc=_LOC, msg=message, input=value)


def _stack_problems(request: Request) -> Iterator[Problem]:
    """Yield the settings that images are not modeled with."""
    if request.stack != DEFAULT_STACK:
        message = "images are modeled with the default releases only: leave stack out"
        yield Problem(loc="stack", msg=message, input=asdict(request.stack))


def _without_gradient(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why adapters in a tower are refused under the re-entrant checkpoint.

    The tower's input needs no gradient, so that checkpoint gives its adapters none.
    """
    training, tower = request.training, forward_of(model).tower
    if tower is None or tower.grads_patches or request.method.facts.trains_base:
        return
    if not (training.gradient_checkpointing and training.use_reentrant):
        return
    applied = PreparedModel(model, request.method, training, request.device, request.stack)
    specs = (applied.module_spec(path, module) for path, module in model.paths if path.startswith(model.towers))
    if any(spec.added or spec.trained for spec in specs):
        message = (
            f"the adapters in the tower of {model.model_type} would get no gradient, because its patch embeddings"
            " do not require one: use false, or adapt the language model only"
        )
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=True)


def _sizes(request: Request, model: Model, image: Processed, images: Images) -> Iterator[Problem]:
    """Yield why images are refused that do not fit into a sequence, or that are too many."""
    training, tower = request.training, forward_of(model).tower
    assert tower is not None
    count, facts = images.images_per_sequence, trainer_of(training).facts
    tokens = count * image.length
    if tokens > training.sequence_length:
        shown = f"{count:,} images are" if count > 1 else "an image is"
        message = f"{shown} {tokens:,} tokens of a sequence: set at least that, or make images smaller or fewer"
        yield Problem(loc="training.sequence_length", msg=message, input=training.sequence_length)
    elif facts.has_prompts or facts.generates:
        yield from _completions(training, tokens, facts)
    chunks = training.micro_batch_size * facts.sequences * chunks_of_sequence(request, model)
    if chunks > MOST_CHUNKS:
        message = (
            f"the tower attends within {chunks:,} windows or images of a micro-batch, of which at most {MOST_CHUNKS:,}"
            " are modeled: make images or micro-batches smaller"
        )
        yield Problem(loc=f"{_LOC}.images_per_sequence", msg=message, input=count)


def _completions(training: Training, tokens: int, facts: TrainerFacts) -> Iterator[Problem]:
    """Yield prompts with a token and the tokens of images that leave too few tokens of a sequence for completions."""
    remaining = training.sequence_length - 1 - tokens
    if remaining < 1:
        message = f"a prompt of a token and its images has {1 + tokens:,} tokens: set more, for a completion after it"
        yield Problem(loc="training.sequence_length", msg=message, input=training.sequence_length)
        return
    limit = training.max_completion_length
    if facts.generates and (limit is None or limit > remaining):
        message = (
            f"{remaining:,} tokens of a sequence are left after a token and the images of a prompt: set at most that"
        )
        yield Problem(loc="training.max_completion_length", msg=message, input=limit)
        return
    most = training.micro_batch_size * facts.sequences * remaining
    if training.completion_tokens is not None and training.completion_tokens > most:
        message = f"a micro-batch has {most:,} tokens after prompts of a token and images: use at most that many"
        yield Problem(loc="training.completion_tokens", msg=message, input=training.completion_tokens)


def chunks_of_sequence(request: Request, model: Model) -> int:
    """Return the number of windows or images within which a tower attends one by one, for the images of a sequence."""
    tower, images = forward_of(model).tower, request.training.images
    if tower is None or images is None or not request.training.has_images or request.training.attention != "sdpa":
        return 0
    return images.images_per_sequence * tower.chunks(model.config, processed(request, model))


def assumptions(request: Request, model: Model) -> Iterator[str]:
    """Yield sentences on the processing of an image, and on what is not counted."""
    images, tower = request.training.images, forward_of(model).tower
    if tower is None or images is None or not request.training.has_images:
        return
    image, count = processed(request, model), images.images_per_sequence
    plural = f"{count:,} images" if count > 1 else "1 image"
    tiles = f" in {image.tiles:,} tiles (one of the whole image)" if image.tiles > 1 else ""
    least = "at least " if image.tiles > 1 else ""
    around = f" and {least}{image.around:,} around them" if image.around else ""
    yield (
        f"Each sequence contains {plural} of {images.image_height:,} × {images.image_width:,} pixels (height × width)."
        f" The processor resizes an image to {image.height:,} × {image.width:,}: {image.rows:,} × {image.columns:,}"
        f" patches{tiles}, {image.tokens:,} tokens{around}. Images are"
        f" {count * image.length:,} of the {request.training.sequence_length:,} tokens."
        f" Source: transformers, {tower.source}."
    )
    if tower.convolves:
        yield CONVOLUTION
