"""Checks for runs that update each parameter in the backward pass and free its gradient."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.estimation.request import Request

#: The sentence of an answer on a reference step with one optimizer per parameter.
OWN_OPTIMIZERS = (
    "Each parameter has an optimizer of its own with the same options, which a hook steps as soon as the gradient is"
    " accumulated (register_post_accumulate_grad_hook, or optimi's gradient_release) and which then frees the gradient."
)


def problems(request: Request, model: Model) -> Iterator[Problem]:
    """Yield settings that the libraries refuse, or that are not modeled."""
    yield from _released(request)
    yield from _accumulated(request)
    if request.method.name == "adalora":
        message = "AdaLoRA reads gradients after the optimizer's step, when they have been freed: use lora"
        yield Problem(loc="method.name", msg=message, input="adalora")
    if request.training.optimizer in ("lomo", "adalomo"):
        yield from _lomo(request, model)


def _released(request: Request) -> Iterator[Problem]:
    """Yield settings with which optimizer_in_bwd is not modeled."""
    training = request.training
    if not training.optimizer_in_bwd:
        return
    if training.trainer not in (None, "torchtune"):
        message = (
            f"{training.trainer} steps the optimizer after the backward pass: use false and an optimizer that steps in"
            " it (galore_adamw_layerwise, apollo_adamw_layerwise, lomo, adalomo), or torchtune"
        )
        yield Problem(loc="training.optimizer_in_bwd", msg=message, input=True)
    if training.trainer is None and request.device.sharding != "none":
        message = "is modeled on one GPU only: use false, or device.sharding none"
        yield Problem(loc="training.optimizer_in_bwd", msg=message, input=True)
    optimizer = OPTIMIZERS[training.optimizer]
    reason = None
    if optimizer.in_backward:
        reason = "steps in the backward pass by itself: set training.optimizer_in_bwd false"
    elif optimizer.projects:
        reason = f"has hooks of its own: use {training.optimizer}_layerwise and training.optimizer_in_bwd false"
    elif optimizer.others is not None:
        reason = "is two optimizers, which is not modeled with training.optimizer_in_bwd: use another, or false"
    if reason is not None:
        yield Problem(loc="training.optimizer", msg=reason, input=training.optimizer)
    if training.loraplus_lr_ratio is not None:
        message = (
            "needs parameter groups of one optimizer, and each parameter has its own: leave it out, or optimizer_in_bwd"
        )
        yield Problem(loc="training.loraplus_lr_ratio", msg=message, input=training.loraplus_lr_ratio)


def _accumulated(request: Request) -> Iterator[Problem]:
    """Yield why gradient accumulation is refused if each micro-batch would step.

    LOMO steps in each micro-batch, and torchtune itself refuses accumulation. Source:
    transformers/trainer_optimizer.py, _setup_low_rank_optimizer.
    """
    training = request.training
    if training.gradient_accumulation_steps == 1 or training.trainer == "torchtune":
        return
    message = None
    if OPTIMIZERS[training.optimizer].layerwise:
        message = f"transformers refuses to accumulate gradients with {training.optimizer}: use 1"
    elif training.optimizer_in_bwd:
        message = "optimizer_in_bwd frees gradients in every backward pass: use 1"
    if message is not None:
        loc = "training.gradient_accumulation_steps"
        yield Problem(loc=loc, msg=message, input=training.gradient_accumulation_steps)


def _lomo(request: Request, model: Model) -> Iterator[Problem]:
    """Yield settings that LOMO's hooks do not accept.

    Source: lomo_optim/lomo.py and adalomo.py; accelerate/accelerator.py.
    """
    training, method = request.training, request.method
    if training.trainer is not None and training.autocast == "float16":
        message = "accelerate scales the loss and skips LOMO's backward, which updates the last weight: use bfloat16"
        yield Problem(loc="training.autocast", msg=message, input="float16")
    if training.optimizer == "lomo":
        return
    if method.quantizes_base:
        message = "makes states for frozen weights too, which is modeled for dense ones: use lomo"
        yield Problem(loc="training.optimizer", msg=message, input="adalomo")
    if method.facts.trains_base and any(len(p.shape) > 2 for _, module in model.paths for p in module.parameters):
        message = f"adds a matrix to a vector where {model.model_type} has weights of three dimensions: use lomo"
        yield Problem(loc="training.optimizer", msg=message, input="adalomo")
