"""The quantized base in a model's `config.json`, used as a setting of LoRA."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from calculator import catalogue
from calculator.bases import config_json
from calculator.common.errors import PlanError, Problem
from calculator.devices.verdict import card_of
from calculator.methods import LoRA, Method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import ModelReference
    from calculator.inputs.device import Device

AnyMethod = TypeVar("AnyMethod", bound=Method)


def stated(model: ModelReference) -> Any:
    """Return the `quantization_config` of a model's `config.json`, or None."""
    if model.config is not None:
        return model.config.get("quantization_config")
    if model.id is None:
        return None
    try:
        return catalogue.model(model.id).config.get("quantization_config")
    except PlanError:
        return None


def with_stated_base(method: AnyMethod, model: ModelReference) -> AnyMethod:
    """Return LoRA over the base in the model's `config.json`. Any other method is returned unchanged.

    If LoRA names a base, it has the settings of the checkpoint in it, if transformers could dequantize that checkpoint.
    """
    if not isinstance(method, LoRA) or method.load_in_8bit:
        return method
    config = method.quantization_config
    base = (
        config_json.kept_quantization(stated(model), config)
        if method.quantizes_base
        else config_json.read(stated(model))
    )
    return method if base is None else replace(method, quantization_config=base)


def problems(method: Method, model: ModelReference) -> Iterator[Problem]:
    """Yield why a method can't train over the base in the `config.json`, and settings that belong to no base."""
    config, model_base = method.quantization_config if isinstance(method, LoRA) else None, stated(model)
    if config is None and model_base is None:
        return
    if config is not None and config.quant_method is None and config != type(config)():
        message = "is required with the other settings of a quantization_config"
        yield Problem(loc="method.quantization_config.quant_method", msg=message, input=None)
    if isinstance(method, LoRA) and method.load_in_8bit and config is not None and config.quant_method is not None:
        message = f"the base is stored by {config.quant_method}: use false"
        yield Problem(loc="method.load_in_8bit", msg=message, input=True)
    low_rank = isinstance(method, LoRA) and not method.load_in_8bit
    yield from config_json.problems(model_base, config if config and config.quant_method else None, low_rank=low_rank)


def gpu_problems(method: Method, device: Device) -> Iterator[Problem]:
    """Yield a base that the GPU has no kernels for."""
    base = method.base if isinstance(method, LoRA) else None
    card = card_of(device)
    if base is None or card is None or card.compute_capability is None:
        return
    capability, least, most = (
        tuple(map(int, card.compute_capability.split("."))),
        base.compute_capability,
        base.unsupported_from,
    )
    if capability < least or (most is not None and capability >= most):
        needed = ".".join(map(str, least)) + (f", and less than {'.'.join(map(str, most))}" if most else "")
        has = f"{card.name} has {card.compute_capability}"
        message = f"{base.label} needs compute capability {needed}; {has}: leave quantization_config out"
        yield Problem(loc=f"{base.loc}.quant_method", msg=message, input=base.config.quant_method)
