"""Checks of a task other than causal language modeling: what is modeled with it."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.estimation import audio_requests, image_classification, seq_2_seq
from calculator.families import forward_of
from calculator.inputs.stack import DEFAULT_STACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request

#: Settings of a trainer that are modeled with a language model's loss only.
_OF_LANGUAGE_MODELS = ("use_liger_kernel", "cut_cross_entropy", "completion_tokens", "sequence_lengths")


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why a task other than causal language modeling is refused."""
    task, device, training = model.task, request.device, request.training
    if task.name != "seq_2_seq_lm" and training.target_length is not None:
        message = "only encoder-decoders have a target: set task seq_2_seq_lm, or leave it out"
        yield Problem(loc="training.target_length", msg=message, input=training.target_length)
    if not task.embeds and training.texts_per_example != 2:
        message = "only task feature_extraction embeds texts: set it, or leave texts_per_example out"
        yield Problem(loc="training.texts_per_example", msg=message, input=training.texts_per_example)
    if task.name == "causal_lm":
        return
    yield from seq_2_seq.problems(request, model) if task.name == "seq_2_seq_lm" else ()
    yield from audio_requests.problems(request, model) if model.reads_audio else ()
    yield from image_classification.problems(request, model) if task.name == "image_cls" else ()
    if task.embeds and request.method.name == "prefix" and not forward_of(model).is_causal:
        message = f"the keys and values of a prefix in {model.model_type} are not modeled: use prompt or lora"
        yield Problem(loc="method.name", msg=message, input=request.method.name)
    if task.embeds and training.trainer is not None:
        message = (
            f"a model without a head computes no loss, and {training.trainer} raises an error (The model did not"
            " return a loss from the inputs): leave it out for the reference step, or set another task"
        )
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    elif training.trainer not in (None, "transformers"):
        message = f"{task.name} is modeled in the reference step and with transformers: use that, or leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    for name in _OF_LANGUAGE_MODELS if training.trainer is not None else ():
        if given := getattr(training, name):
            message = f"is modeled for causal_lm only, not {task.name}: leave it out"
            yield Problem(loc=f"training.{name}", msg=message, input=given)
    if device.sharding != "none":
        message = f"{task.name} is modeled on one GPU only: use none, and device.count 1"
        yield Problem(loc="device.sharding", msg=message, input=device.sharding)
    if request.stack != DEFAULT_STACK:
        message = f"{task.name} is modeled with the default releases only: leave stack out"
        yield Problem(loc="stack", msg=message, input=asdict(request.stack))
