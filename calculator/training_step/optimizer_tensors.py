"""The states of a run's optimizer, and the temporaries of its step."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from calculator.common.total import total_bytes
from calculator.methods.low_rank import loraplus
from calculator.resident.optimizers import updates_in_backward
from calculator.resident.per_parameter import further_code_books, optimizer_states, shared_states
from calculator.resident.tensor import new_tensor
from calculator.resident.tensors import with_gradient
from calculator.sharding.zero.shared import parameters_in_place, shared_parameters
from calculator.trainers.resident import embeddings, groups
from calculator.training_step.optimizer_step import temporaries
from calculator.training_step.updates import block_copies
from calculator.training_step.updates.loops import LOOPS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.optimizer import Optimizer
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.shards import Shards


def states(
    prepared: PreparedModel, tensors: Sequence[ResidentTensor], optimizer: Optimizer
) -> tuple[ResidentTensors, ...]:
    """Return the optimizer's states from its second step on, for the tensors of a rank."""
    method, trainer = prepared.method, prepared.trainer.facts
    overrides = trainer.embeddings_in_32_bits and not (optimizer.projects or optimizer.is_like_parameters)
    overrides = overrides and not method.steps_copies and "embeddings_in_8_bits" not in prepared.older
    in_32_bits = embeddings(prepared.model, tensors) if overrides else ()
    group_tensors = _group_tensors(optimizer) if trainer.moves_states else ()
    if optimizer.early and trainer.moves_states and not optimizer.in_backward:
        optimizer = replace(optimizer, step_on_device=True)
    statistics = method.statistics(tensors, prepared.training)
    code_books = further_code_books(tensors, optimizer) if updates_in_backward(prepared.training) else ()
    optimized = method.optimized(tensors, prepared.model)
    states_of = shared_states if method.drops_states else optimizer_states
    return (*states_of(optimized, optimizer, in_32_bits), *code_books, *group_tensors, *statistics)


def _group_tensors(optimizer: Optimizer) -> Iterator[ResidentTensor]:
    """Yield the tensors that exist per parameter group: learning rates on the device, and the scheduler's copies.

    Source: accelerate/optimizer.py, AcceleratedOptimizer.__init__; torch/optim/lr_scheduler.py.
    """
    for name in optimizer.group_tensors:
        yield new_tensor(name=name, shape=(), dtype="float32", component="activations", count=2)


def step_temporaries(
    prepared: PreparedModel, tensors: Sequence[ResidentTensor], optimizer: Optimizer, shards: Shards
) -> tuple[ResidentTensors, ...]:
    """Return the tensors that clipping, the optimizer or logging allocates while every gradient is alive."""
    training, method, model = prepared.training, prepared.method, prepared.model
    if updates_in_backward(training):
        return _after_backward(prepared, tensors)
    trainer = prepared.trainer.facts
    trained = _ordered_parameters(prepared, tensors) if optimizer.name in LOOPS else with_gradient(tensors)
    separates = training.loraplus_lr_ratio is not None
    parameter_groups = loraplus.groups(model, trained) if separates else groups(trainer, model, trained, prepared.older)
    if optimizer.projects:
        parameter_groups = [tuple(trained)]  # a projecting optimizer forms its own groups
    keeps_norm = trainer.keeps_norm and "norm_of_the_step_before" not in prepared.older
    clips = (trainer.keeps_norm and "norms_only_to_clip" not in prepared.older) or bool(training.max_grad_norm)
    if method.steps_copies:
        return block_copies.temporaries(
            trained,
            optimizer,
            clips=clips,
            keeps_norm=keeps_norm,
            returns_norm=trainer.returns_norm,
            drops_states=method.drops_states,
            kernels=prepared.kernels,
        )
    step_tensors = temporaries(
        parameter_groups,
        optimizer,
        clips=clips,
        keeps_norm=keeps_norm,
        norm_vectors=shards.norm_vectors,
        reduces_total_norm=shards.reduces_total_norm,
        returns_norm=trainer.returns_norm,
        kernels=prepared.kernels,
    )
    after = method.after_step(tensors, training)
    return max(step_tensors, after, key=total_bytes) if after else step_tensors


def _ordered_parameters(prepared: PreparedModel, tensors: Sequence[ResidentTensor]) -> list[ResidentTensor]:
    """Return the parameters for a loop over them.

    If modules share some of them, each layer's are listed, because the first module alone has what is shared.
    """
    if not shared_parameters(prepared):
        return with_gradient(tensors)
    in_place = chain.from_iterable(own for _, own in parameters_in_place(prepared, tensors))
    return [replace(tensor, count=1, bytes=0) for tensor in with_gradient(in_place)]


def _after_backward(prepared: PreparedModel, tensors: Sequence[ResidentTensor]) -> tuple[ResidentTensors, ...]:
    """Return the tensors that the loop or the method allocates after the backward pass has updated every parameter."""
    if prepared.training.trainer == "torchtune":
        name = "logged loss and speed"
        return (new_tensor(name=name, shape=(), dtype="float32", component="workspace", count=2),)
    return prepared.method.after_step(tensors, prepared.training)
