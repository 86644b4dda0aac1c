"""Quantized bases that exist only in a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from app.interop.exports.exported import NotExpressed
from calculator.estimation.stated_base import stated
from calculator.methods import LoRA

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.estimation.request import Request


def unquantized_base(request: Request) -> Iterator[NotExpressed]:
    """Yield a base that the named checkpoint does not have."""
    method = request.method
    weight = method.base_quantization(request.training)
    if not isinstance(method, LoRA) or weight is None or not weight.is_in_checkpoint or stated(request.model):
        return
    assert method.quantization_config is not None
    needs = method.base.checkpoint_needs if method.base else ""
    why = f"{request.model.id or 'the model'} is not quantized: name a checkpoint that is{needs}"
    loc = "method.quantization_config.quant_method"
    yield NotExpressed(loc=loc, value=method.quantization_config.quant_method, why=why)


def base_without_key(request: Request, keys: tuple[str, ...] = ()) -> Iterator[NotExpressed]:
    """Yield a base that is quantized as the model is loaded, for which a tool's file has no key.

    `keys`: the bases for which it has one.
    """
    method = request.method
    weight = method.base_quantization(request.training)
    if not isinstance(method, LoRA) or weight is None or weight.is_bitsandbytes or weight.is_in_checkpoint:
        return
    assert method.quantization_config is not None
    if stated(request.model) is None and method.quantization_config.quant_method not in keys:
        why = "the tool has no key for it: it loads the base in half precision"
        loc = "method.quantization_config.quant_method"
        yield NotExpressed(loc=loc, value=method.quantization_config.quant_method, why=why)
