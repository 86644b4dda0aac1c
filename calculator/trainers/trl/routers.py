"""The loss of the routers of experts, which TRL's trainers add to their own loss.

TRL requests it if the model's config has `output_router_logits`, unless `router_aux_loss_coef` is 0.

Source: trl/trainer/sft_trainer.py, __init__, and trl/trainer/utils.py, add_fused_lm_head, of TRL 1.15 and 1.16; and
sft_trainer.py of TRL 0.24, 1.0 and 1.9. Without routers' logits, load_balancing_loss_func fails, which reads the
first (transformers/models/mixtral/modeling_mixtral.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.architecture.model import Model
    from calculator.trainers.subject import Subject

#: Families whose config declares a coefficient other than 0, but whose loss TRL cannot compute, because it reads
#: `num_experts`, which their configs do not have.
UNNAMED_EXPERTS = ("granitemoe", "granitemoehybrid", "llama4_text", "phimoe")


def is_added(model: Model) -> bool:
    """Return whether TRL 1.15 or later adds the routers' loss."""
    if "output_router_logits" not in model.config:
        return False
    coefficient = model.config.get("router_aux_loss_coef")
    if coefficient is None:
        return model.has_router_loss or model.model_type in UNNAMED_EXPERTS
    return bool(coefficient)


def problems(prepared: Subject, trainer: str) -> Iterator[Problem]:
    """Yield routers' losses that TRL 1.15 or later cannot compute, and those that are not modeled."""
    model, method = prepared.model, prepared.method
    added, model_type = is_added(model), model.model_type
    coefficient = model.config.get("router_aux_loss_coef")
    if added and model_type in UNNAMED_EXPERTS:
        message = (
            f"{trainer} reads num_experts for the routers' loss, which the config of {model_type} does not have:"
            " set it to 0.0, or use transformers"
        )
        yield Problem(loc="model.config.router_aux_loss_coef", msg=message, input=coefficient)
    elif added and not model.has_router_loss:
        message = f"the routers' loss that {trainer} adds to {model_type} is not modeled: set it to 0.0"
        yield Problem(loc="model.config.router_aux_loss_coef", msg=message, input=coefficient)
    elif added and not model.has_experts:
        message = (
            f"no layer of this {model_type} has experts, and the routers' loss that {trainer} adds raises IndexError"
            " without the logits of a router: set it to 0.0"
        )
        yield Problem(loc="model.config.router_aux_loss_coef", msg=message, input=coefficient)
    elif added and method.virtual_tokens and not method.embeds_inputs:
        message = (
            f"the routers' loss that {trainer} adds fails with the mask of {method.title}, which is longer than the"
            " input: set it to 0.0, or use another method"
        )
        yield Problem(loc="model.config.router_aux_loss_coef", msg=message, input=coefficient)
    elif not added and model.config.get("output_router_logits") and not model.has_router_loss:
        yield unused(trainer)


def unused(trainer: str) -> Problem:
    """Return the problem of router logits that the config requests."""
    message = f"with {trainer} it is not modeled: use false"
    return Problem(loc="model.config.output_router_logits", msg=message, input=True)


def assumptions(model: Model, trainer: str) -> Iterator[str]:
    """Yield that the routers' loss is added."""
    if model.adds_router_loss:
        yield (
            f"{trainer} adds the loss of the routers (router_aux_loss_coef), for which the logits of every router stay"
            " in memory until the backward pass. With router_aux_loss_coef 0.0 in model.config it does not."
        )
