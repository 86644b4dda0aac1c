"""Checks for BAdam and LISA: trainers, optimizers and shardings with which they fail or are not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods.full import badam
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.methods import Full
    from calculator.resident.optimizer import Optimizer

#: Source: torch/nn/parallel/distributed.py: parameters that get no gradient stop the next step.
_LISA_IN_DDP = (
    "DDP registers every parameter before LISA freezes layers, and raises an error in the second step unless"
    " find_unused_parameters is set"
)
#: Source: LLaMA-Factory, hparams/parser.py, get_train_args.
_BADAM_ALONE = "LLaMA-Factory refuses BAdam on several GPUs but under ZeRO-3"


def problems(request: Request, method: Full, model: Model) -> Iterator[Problem]:
    """Yield settings with which BAdam or LISA is refused."""
    training = request.training
    if training.trainer not in (None, "transformers"):
        message = f"{method.title} is modeled only without a trainer or with transformers: use that, or leave it out"
        yield Problem(loc="training.trainer", msg=message, input=training.trainer)
    if training.optimizer_in_bwd:
        message = f"{method.title} updates parameters after the backward pass: use false"
        yield Problem(loc="training.optimizer_in_bwd", msg=message, input=True)
    reason = _refuses(OPTIMIZERS[training.optimizer], method)
    if reason is not None:
        yield Problem(loc="training.optimizer", msg=f"{reason}: use adamw_torch", input=training.optimizer)
    yield from _sharded(request, method, model)


def _refuses(optimizer: Optimizer, method: Full) -> str | None:
    """Return why an optimizer is refused. BlockOptimizer replaces the states with empty ones at each change."""
    if method.use_badam and optimizer.early:
        return "creates its states when it is constructed, and fails with BAdam's copies (KeyError)"
    if method.drops_states and optimizer.storage == "factored":
        return "is not modeled with badam_switch_interval 1"
    if optimizer.package or optimizer.on_one_gpu or optimizer.others is not None or optimizer.in_backward:
        return f"is not modeled with {method.title}"
    return None


def _sharded(request: Request, method: Full, model: Model) -> Iterator[Problem]:
    sharding = request.device.sharding
    if sharding == "none":
        return
    message = f"{method.title} is modeled on one GPU only"
    way_out = "use none with device.count 1"
    if method.use_badam and sharding == "zero3":
        block = badam.patterns(method, model)
        named = f" {list(block)}" if len(block) == 1 else " its names"
        message = (
            f"{message}; under ZeRO-3, DeepSpeed keeps the float32 copies, and its partitions change with the block"
        )
        way_out = f"give the largest block as method.unfrozen_parameters{named} instead of use_badam, or {way_out}"
    elif method.use_badam:
        message = f"{message} ({_BADAM_ALONE})"
    elif sharding == "ddp":
        message = f"{message} ({_LISA_IN_DDP})"
    yield Problem(loc="device.sharding", msg=f"{message}: {way_out}", input=sharding)
