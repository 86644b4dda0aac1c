"""Checks of the optimizer and its options: with a trainer, with a method, and on several GPUs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.inputs.sharding import FSDPConfig
from calculator.resident import optim_args
from calculator.resident.optimizers import OPTIMIZERS
from calculator.training_step.optimizer_targets import projected_modules, projection_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.inputs.sharding import ShardingName
    from calculator.inputs.training import Training
    from calculator.resident.optimizer import Optimizer

#: A pattern of what names of modules never contain: characters of a regular expression, or the number of a layer.
_NO_NAME = re.compile(r"[^\w.\-]|(?:^|\.)\d+(?:\.|$)")

#: The trainers whose steps are not modeled with optimizers that need a package of their own.
_OWN_OPTIMIZERS = ("torchtune", "unsloth")


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why an optimizer or its options are refused with a trainer or on several GPUs."""
    training, device = request.training, request.device
    optimizer = OPTIMIZERS[training.optimizer]
    option_problems = tuple(optim_args.problems(training))
    yield from option_problems
    if optimizer.projects:
        yield from _projected(request, model)
    if optimizer.projects == "random" and not option_problems:
        yield from _scaled(model, training)
    message = None if device.sharding == "none" else _on_several_gpus(optimizer, training, device.sharding)
    if message is None and training.trainer is not None and not optimizer.optim_has_it:
        message = "TrainingArguments.optim does not have it: leave training.trainer out, or use adamw_torch_fused"
    elif message is None and training.trainer in _OWN_OPTIMIZERS and optimizer.on_one_gpu:
        message = f"is not modeled with {training.trainer}: use adamw_torch_fused, or the trainer transformers"
    if message is not None:
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)


def _on_several_gpus(optimizer: Optimizer, training: Training, sharding: ShardingName) -> str | None:
    """Return why an optimizer is refused on several GPUs, or None if it is not."""
    if not optimizer.on_one_gpu or (sharding == "ddp" and not optimizer.refuses_ddp):
        return None
    if optimizer.updates_shards and sharding != "ddp":
        if training.trainer is None and not (training.fsdp_config or FSDPConfig()).cpu_offload:
            return None
        return (
            f"is modeled under {sharding} in the reference step, without offload: leave training.trainer and offload"
            " out, or use adamw_torch"
        )
    where, way_out = "one GPU and under ddp", "device.sharding ddp"
    if optimizer.refuses_ddp:
        where, way_out = "one GPU", "device.count 1 and device.sharding none"
    reason = {"ddp": optimizer.refuses_ddp, "fsdp": optimizer.refuses_fsdp}.get(sharding, optimizer.refuses_zero)
    message = f"is modeled on {where} only: use adamw_torch, or {way_out}"
    return f"{message} ({reason})" if reason else message


def _projected(request: Request, model: Model) -> Iterator[Problem]:
    """Yield why projections of gradients are refused: no module matches, or adapters are trained."""
    training, method = request.training, request.method
    if not method.facts.trains_base or method.trains_part:
        message = "projects the gradients of whole weights, and is modeled for full fine-tuning: use method full"
        yield Problem(loc="training.optimizer", msg=message, input=training.optimizer)
    named = training.optim_target_modules
    if isinstance(named, tuple) and any(_NO_NAME.search(name) for name in named):
        message = "regular expressions and numbers of layers are not modeled: give parts of names, such as mlp"
        yield Problem(loc="training.optim_target_modules", msg=message, input=list(named))
    elif named and not any(projected_modules(model, training)):
        message = "no linear layer has one of these in its name: name others, or use all-linear"
        yield Problem(loc="training.optim_target_modules", msg=message, input=list(named))


def _scaled(model: Model, training: Training) -> Iterator[Problem]:
    """Yield the first weight whose gradient APOLLO's scaling factors do not fit."""
    projection = projection_of(OPTIMIZERS[training.optimizer], training)
    modules = dict(model.paths)
    for path in projected_modules(model, training):
        rows, columns = shape = modules[path].parameters[0].shape
        if not projection.scales(shape):
            message = (
                f"APOLLO fails with a factor for each channel of {path} ({rows:,} × {columns:,}), of which"
                f" {projection.proj_type} projects the other side: use proj_type=std, or scale_type=tensor"
            )
            yield Problem(loc="training.optim_args", msg=message, input=training.optim_args)
            return
