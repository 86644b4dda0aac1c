"""A linear layer with PEFT's LoRA and an update of a given size, dense or in NF4."""

from __future__ import annotations

import bitsandbytes as bnb
import peft
import torch
from torch import Tensor, nn

from validation.prove.code_books import BLOCKSIZE
from validation.reference import methods

R = 16


class Layer:
    """A square linear layer with LoRA, which can be merged; `size` is ‖(alpha/r)·BA‖ over ‖W₀‖."""

    @torch.no_grad()
    def __init__(
        self, width: int, dtype: torch.dtype, device: torch.device, *, size: float, four_bit: bool = False
    ) -> None:
        parent = nn.Module()
        parent.linear = _four_bit(width, dtype, device) if four_bit else _dense(width, dtype, device)
        parent.is_loaded_in_4bit = four_bit
        config = peft.LoraConfig(r=R, lora_alpha=R, target_modules=["linear"])
        peft.inject_adapter_in_model(config, parent)
        self.module = parent.get_submodule("linear")
        a, b = (self.module.get_submodule(f"lora_{side}.default").get_parameter("weight") for side in "AB")
        for factor in (a, b):
            factor.data = torch.randn(factor.shape, device=device)
        b.mul_(size * self.weight().norm() / (b @ a).norm())

    @torch.no_grad()
    def output(self, x: Tensor) -> Tensor:
        """Return the layer's output for x."""
        out: Tensor = self.module(x)
        return out

    def merge(self) -> None:
        """Merge the update with PEFT."""
        self.module.merge()

    def unmerge(self) -> None:
        """Unmerge the update with PEFT."""
        self.module.unmerge()

    @torch.no_grad()
    def update(self) -> Tensor:
        """(alpha/r)·BA, with alpha = r, in float64."""
        a, b = (self.module.get_submodule(f"lora_{side}.default").get_parameter("weight") for side in "AB")
        return b.double() @ a.double()

    @torch.no_grad()
    def weight(self) -> Tensor:
        """Return a copy of the base layer's weight in float64."""
        weight = self.module.get_submodule("base_layer").get_parameter("weight")
        if isinstance(weight, bnb.nn.Params4bit):
            return bnb.functional.dequantize_4bit(weight.data, weight.quant_state).double()
        return weight.double()

    def codes(self) -> Tensor:
        """Return a copy of the base layer's 4-bit codes, one per element."""
        packed = self.module.get_submodule("base_layer").get_parameter("weight").data
        return torch.cat([packed >> 4, packed & 15])


def _dense(width: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    layer = nn.Linear(width, width, bias=False, dtype=dtype, device=device)
    nn.init.normal_(layer.weight, std=methods.WEIGHT_STD)
    return layer


def _four_bit(width: int, dtype: torch.dtype, device: torch.device) -> nn.Module:
    layer = bnb.nn.Linear4bit(
        width, width, bias=False, compute_dtype=dtype, compress_statistics=True, quant_type="nf4", device="meta"
    )
    methods.quantize_layer(layer, BLOCKSIZE, dtype, device)
    return layer
