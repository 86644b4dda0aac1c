"""A method's settings as the arguments of PEFT's configuration, which have the same names."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

from calculator.methods.lora.method import LoRA
from calculator.methods.qlora.method import QLoRA

if TYPE_CHECKING:
    from calculator.methods import Method


def config_arguments(method: Method) -> dict[str, Any]:
    """The arguments of `facts.config_class` but the task; QLoRA's further settings are of the base's storage."""
    of = LoRA if isinstance(method, QLoRA) else type(method)
    return {field.name: _listed(getattr(method, field.name)) for field in fields(of)}


def _listed(value: Any) -> Any:
    if isinstance(value, dict):
        return dict(value)  # PEFT adds ranks to it
    return list(value) if isinstance(value, tuple) else value
