"""Checks for LoRA+: requests for which it is not modeled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.common.errors import Problem
from calculator.methods import LoRA, QLoRA
from calculator.resident.optimizers import OPTIMIZERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request


def problems(request: Request) -> Iterator[Problem]:
    """Yield why LoRA+ is refused without LoRA, and settings with which its groups are not modeled."""
    training, method = request.training, request.method
    message = None
    if not isinstance(method, LoRA | QLoRA):
        message = f"{method.facts.label} has no B: use lora or qlora, or leave it out"
    elif training.trainer is not None:
        message = "is modeled in the reference step only: leave the trainer out"
    elif request.device.sharding != "none":
        message = "is modeled on one GPU only: use device.sharding none"
    elif OPTIMIZERS[training.optimizer].on_one_gpu:
        message = f"is not modeled with {training.optimizer}: use adamw_torch, or leave it out"
    if message is not None:
        yield Problem(loc="training.loraplus_lr_ratio", msg=message, input=training.loraplus_lr_ratio)
