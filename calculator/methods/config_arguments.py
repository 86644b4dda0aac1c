"""A method's settings as the arguments of PEFT's configuration, which have the same names."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, Any

from calculator.methods.low_rank.initialization import LOFTQ_CONFIG
from calculator.methods.low_rank.method import LowRank

if TYPE_CHECKING:
    from calculator.methods import Method


#: The setting that is about what follows PEFT's configuration.
_AFTER_PEFT = "unfrozen_dtype"


def config_arguments(method: Method | LowRank) -> dict[str, Any]:
    """Return the arguments of `facts.config_class`, without the task."""
    arguments = {name: _listed(getattr(method, name)) for name in argument_names(type(method))}
    if arguments.get("init_lora_weights") == "loftq":
        arguments["loftq_config"] = dict(LOFTQ_CONFIG)  # LoraConfig requires it
    return method.peft_arguments(arguments)


def argument_names(cls: type) -> tuple[str, ...]:
    """Return the names of these arguments.

    Further settings of LoRA and QLoRA are about the storage of the base.
    """
    base_class: Any = LowRank if issubclass(cls, LowRank) else cls
    return tuple(field.name for field in fields(base_class) if field.name != _AFTER_PEFT)


def _listed(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _listed(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return dict(value)  # a copy, because PEFT adds ranks to it
    return list(value) if isinstance(value, tuple) else value
