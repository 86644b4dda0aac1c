"""Checks for traces.

A trace does not run several GPUs, trainers, histories of lengths, or releases that are not installed.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from calculator import catalogue
from calculator.common.errors import PlanError, Problem
from calculator.devices.verdict import card_of
from calculator.estimation.several_gpus import single_gpu_problems
from calculator.estimation.trainer_settings import OF_TRAINERS
from calculator.families import FAMILIES
from calculator.inputs.stack import DEFAULT_STACK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from calculator.estimation.request import ModelReference, Request

#: Settings of several GPUs, of a trainer or of a history of steps, with the values that have no effect.
OTHER_STEPS: dict[str, object] = {
    **OF_TRAINERS,
    "trainer": None,
    "sequence_lengths": None,
    "torch_empty_cache_steps": None,
    "loraplus_lr_ratio": None,
    "kernels": None,
    "ddp": None,
    "deepspeed": None,
    "fsdp_config": None,
}


def is_traced(request: Request) -> bool:
    """Return whether an estimate is by a trace: the request says so, or the calculator does not model the model."""
    if request.engine == "auto":
        return request.accounting == "exact" and not is_modeled(request.model)
    return request.engine == "traced"


def is_modeled(reference: ModelReference) -> bool:
    """Return whether the calculator models the training step of a model's family.

    A family that it refuses for another reason counts as modeled.
    """
    config = config_of(reference)
    model_type = config.get("model_type") if config is not None else None
    return not isinstance(model_type, str) or _is_modeled_type(model_type)


@cache
def modeled_models() -> tuple[catalogue.ModelEntry, ...]:
    """Return the models of the catalogue whose training step the calculator models. A trace answers the others."""
    return tuple(entry for entry in catalogue.models() if _is_modeled_type(entry.model_type))


def _is_modeled_type(model_type: str) -> bool:
    family = FAMILIES.get(model_type)
    return family is not None and (family.forward is not None or bool(family.tasks))


def config_of(reference: ModelReference) -> dict[str, Any] | None:
    """Return the `config.json` of a reference.

    Return None for a number of parameters, and for a model that is not in the catalogue.
    """
    if reference.id is None:
        return reference.config
    try:
        return catalogue.model(reference.id).config_for(images=reference.task.has_images)
    except PlanError:
        return None


def check_traced(request: Request) -> None:
    """Refuse a request that a trace does not run.

    Raises:
        PlanError: with every reason found.
    """
    problems = tuple(_problems(request))
    if problems:
        raise PlanError(*problems)


def _problems(request: Request) -> Iterator[Problem]:
    training, card = request.training, card_of(request.device)
    if request.accounting != "exact":
        yield Problem(loc="accounting", msg="a trace is exact: use exact, or another engine", input=request.accounting)
    if config_of(request.model) is None:
        if request.model.id is not None:
            catalogue.model(request.model.id)
        message = "a number of parameters cannot be traced: give an id or a config"
        yield Problem(loc="model.parameters", msg=message, input=request.model.parameters)
    yield from single_gpu_problems(request.device)
    for name, value in OTHER_STEPS.items():
        given = getattr(training, name)
        if given != value:
            message = f"a trace runs the reference step on one GPU, which has no such setting: leave {name} out"
            yield Problem(loc=f"training.{name}", msg=message, input=given)
    if training.use_reentrant:
        message = "a trace checkpoints without re-entry: leave use_reentrant out"
        yield Problem(loc="training.gradient_checkpointing_kwargs.use_reentrant", msg=message, input=True)
    if request.stack != DEFAULT_STACK:
        yield Problem(loc="stack", msg="a trace runs the installed releases: leave the stack out", input=None)
    if training.attention == "flash_attention_2" and card is not None and not card.has_flash:
        message = f"FlashAttention 2 needs compute capability 8.0; {card.name} has {card.compute_capability}: use sdpa"
        yield Problem(loc="training.attention", msg=message, input=training.attention)
