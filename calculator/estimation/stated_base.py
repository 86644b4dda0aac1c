"""The quantized base that a model's `config.json` states, as a setting of LoRA."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from calculator import catalogue
from calculator.bases import config_json
from calculator.common.errors import PlanError, Problem
from calculator.methods import LoRA, Method

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import ModelReference

AnyMethod = TypeVar("AnyMethod", bound=Method)


def stated(model: ModelReference) -> Any:
    """The `quantization_config` of a model's `config.json`, or None."""
    if model.config is not None:
        return model.config.get("quantization_config")
    if model.id is None:
        return None
    try:
        return catalogue.model(model.id).config.get("quantization_config")
    except PlanError:
        return None


def with_stated_base(method: AnyMethod, model: ModelReference) -> AnyMethod:
    """LoRA over the base that the model's `config.json` states; any other method unchanged."""
    if not isinstance(method, LoRA) or method.quantizes_base:
        return method
    base = config_json.read(stated(model))
    return method if base is None else replace(method, quantization_config=base)


def problems(method: Method, model: ModelReference) -> Iterator[Problem]:
    """Why a method can't train over the base that the `config.json` states; settings of no base."""
    own = method.quantization_config if isinstance(method, LoRA) else None
    if own is not None and own.quant_method is None and own != type(own)():
        message = "is required with the other settings of a quantization_config"
        yield Problem(loc="method.quantization_config.quant_method", msg=message, input=None)
    if isinstance(method, LoRA) and method.load_in_8bit and own is not None and own.quant_method is not None:
        message = f"the base is stored by {own.quant_method}: use false"
        yield Problem(loc="method.load_in_8bit", msg=message, input=True)
    low_rank = isinstance(method, LoRA) and not method.load_in_8bit
    yield from config_json.problems(stated(model), own if own and own.quant_method else None, low_rank=low_rank)
