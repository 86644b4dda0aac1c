"""Checks of the settings of a trainer: those that it refuses, and those that need a trainer."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.families import forward_of
from calculator.layers.decoder_forward import identity
from calculator.trainers import cut_cross_entropy, liger, reentrant, towers, trainer_of
from calculator.trainers.trl import offloading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.inputs.training import Training
    from calculator.methods.prepared_model import PreparedModel
    from calculator.trainers.facts import TrainerFacts

#: Settings that only a trainer's step has, with the values that have no effect.
OF_TRAINERS: dict[str, object] = {
    "loss_type": None,
    "packing": False,
    "packing_strategy": "bfd",
    "padding_free": False,
    "completion_tokens": None,
    "precompute_ref_log_probs": False,
    "beta": None,
    "num_generations": None,
    "max_completion_length": None,
    "use_vllm": False,
    "vllm_mode": "colocate",
    "vllm_gpu_memory_utilization": None,
    "vllm_enable_sleep_mode": False,
    "use_liger_kernel": False,
    "cut_cross_entropy": False,
    "activation_offloading": None,
}

_values, _NO_VALUES = attrgetter(*OF_TRAINERS), tuple(OF_TRAINERS.values())


def problems(request: Request, model: Model, prepare: Callable[[], PreparedModel]) -> Iterator[Problem]:
    """Yield settings that a trainer refuses, and settings that need a trainer if there is none.

    `prepare` returns the request's model with its method applied.
    """
    training = request.training
    if training.trainer is None:
        if training.use_reentrant or _values(training) != _NO_VALUES:
            yield from _without_trainer(training)
        return
    prepared = prepare()
    if towers.reads_images(model):
        yield from towers.problems(prepared)
    if message := _refused_model(training, model):
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
        return
    yield from _completion_tokens(request)
    yield from liger.problems(prepared)
    yield from cut_cross_entropy.problems(prepared, request.device.sharding)
    yield from trainer_of(training).problems(prepared)
    yield from reentrant.problems(prepared)
    facts, sharding = trainer_of(training).facts, request.device.sharding
    yield from _ddp_options(training)
    yield from _offloading(prepared, facts)
    if facts.on_one_gpu and sharding != "none":
        message = f"{facts.label} is modeled on one GPU only: use none, or the trainer trl-sft"
        yield Problem(loc="device.sharding", msg=message, input=sharding)


def _without_trainer(training: Training) -> Iterator[Problem]:
    values = zip(OF_TRAINERS, _values(training), strict=True)
    given = {name: value for name, value in values if value != OF_TRAINERS[name]}
    if training.use_reentrant:
        given["gradient_checkpointing_kwargs.use_reentrant"] = True
    for name, value in given.items():
        message = f"the reference step has no such setting: set training.trainer, or leave {name} out"
        yield Problem(loc=f"training.{name}", msg=message, input=value)


def _refused_model(training: Training, model: Model) -> str | None:
    """Return why a model is refused with a trainer, or None if it is not."""
    if model.idle and not model.towers:
        return f"{model.model_type} has weights that no batch uses, which is not modeled with a trainer: leave it out"
    if training.trainer != "transformers" and forward_of(model).head_input is not identity:
        return f"{model.model_type} is modeled only without a trainer or with transformers: use that, or leave it out"
    return None


def _completion_tokens(request: Request) -> Iterator[Problem]:
    """Yield more labeled tokens than a micro-batch can have."""
    training, given = request.training, request.training.completion_tokens
    if given is None:
        return
    in_a_row = training.sequence_length - 1 + bool(request.method.virtual_tokens)
    most = training.micro_batch_size * trainer_of(training).facts.sequences * in_a_row
    if training.flattened:
        most = training.micro_batch_size * training.sequence_length - training.samples
    if given > most:
        message = f"a micro-batch has at most {most:,} labeled tokens: use {most:,} or fewer"
        yield Problem(loc="training.completion_tokens", msg=message, input=given)
    if training.sequence_lengths is not None:
        message = "requires micro-batches of one length: leave sequence_lengths out"
        yield Problem(loc="training.completion_tokens", msg=message, input=given)


def _ddp_options(training: Training) -> Iterator[Problem]:
    """Yield options of DDP that a trainer does not have."""
    if training.has_bucket_views:
        message = "TrainingArguments has no such option: leave it out"
        yield Problem(loc="training.ddp.gradient_as_bucket_view", msg=message, input=True)


def _offloading(prepared: PreparedModel, facts: TrainerFacts) -> Iterator[Problem]:
    """Yield why activations that a trainer moves to host memory are refused."""
    given = prepared.training.activation_offloading
    if given is None or facts.offloads:
        return
    if facts.offloads_saved_tensors:
        yield from offloading.problems(prepared, prepared.device.sharding)
        return
    message = f"offloading is not modeled with {facts.label}: leave it out, or use trl-sft or unsloth"
    yield Problem(loc="training.activation_offloading", msg=message, input=given)
