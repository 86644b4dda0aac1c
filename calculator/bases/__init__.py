"""The quantized bases of LoRA: how libraries store the frozen weights of linear layers, and how they multiply by them.

Each base is one module with one class. It has a name in `QuantMethod` and an entry in `BASES`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from calculator.bases.aqlm import AQLM
from calculator.bases.awq import AWQ
from calculator.bases.config import QuantizationConfig, QuantMethod
from calculator.bases.eetq import EETQ
from calculator.bases.fp8 import FP8
from calculator.bases.gptq import GPTQ
from calculator.bases.hqq import HQQ
from calculator.bases.int8 import LLMInt8
from calculator.bases.torchao import TorchAO

if TYPE_CHECKING:
    from calculator.bases.base import Base

#: The class of each base that a `quantization_config` can name.
BASES: dict[QuantMethod, type[Base]] = {
    "gptq": GPTQ,
    "awq": AWQ,
    "torchao": TorchAO,
    "fp8": FP8,
    "hqq": HQQ,
    "eetq": EETQ,
    "aqlm": AQLM,
}

assert get_args(QuantMethod) == tuple(BASES)

__all__ = ["BASES", "LLMInt8", "QuantMethod", "QuantizationConfig", "base_of"]


def base_of(config: QuantizationConfig | None, *, load_in_8bit: bool) -> Base | None:
    """Return the quantized base that LoRA's settings name, or None if the base is not quantized."""
    if load_in_8bit:
        return LLMInt8(config=QuantizationConfig())
    if config is None or config.quant_method is None:
        return None
    return BASES[config.quant_method](config=config)
