"""The expected output of a layer, by the formulas of its method's paper, in float32."""

from __future__ import annotations

from typing import TYPE_CHECKING

import bitsandbytes as bnb
import torch
from torch import Tensor, nn

from calculator.methods import LoRA, Prefix, Prompt, QLoRA
from validation.reference.bottleneck import Bottleneck

if TYPE_CHECKING:
    from validation.measure.subjects import Subject


@torch.no_grad()
def output_error(subject: Subject, x: Tensor | None, out: Tensor) -> float | None:
    """Return the relative error of an output against the formula; None if dropout makes the output random."""
    if isinstance(subject.method, LoRA | QLoRA) and subject.method.lora_dropout:
        return None
    expected = _expected(subject, x)
    return float((out.float() - expected).norm() / expected.norm())


def _expected(subject: Subject, x: Tensor | None) -> Tensor:
    module = subject.module
    if isinstance(subject.method, Prefix | Prompt):
        return _encoded(module)
    assert x is not None
    rows = x.float()
    if isinstance(module, Bottleneck):
        inner = module.act(rows @ module.down.weight.float().T + module.down.bias.float())
        return rows + inner @ module.up.weight.float().T + module.up.bias.float()
    if hasattr(module, "lora_A"):
        return rows @ _adapted(subject, module).T
    return rows @ _dense(module).T


def _encoded(module: nn.Module) -> Tensor:
    """Return the embedding table, or the table after an MLP with tanh (Li & Liang 2021, section 4.3)."""
    table: Tensor = module.get_submodule("embedding").weight[None].float()
    if not getattr(module, "prefix_projection", False):
        return table
    first, _, second = module.get_submodule("transform").children()
    return torch.tanh(table @ first.weight.T + first.bias) @ second.weight.T + second.bias


def _dense(layer: nn.Module) -> Tensor:
    weight = layer.get_parameter("weight")
    if isinstance(weight, bnb.nn.Params4bit):
        dense: Tensor = bnb.functional.dequantize_4bit(weight.data, weight.quant_state)
        return dense.float()
    return weight.float()


def _adapted(subject: Subject, layer: nn.Module) -> Tensor:
    """W + s·B·A; with DoRA, rows are scaled to the trained magnitudes (Liu et al. 2024, equation 5)."""
    assert isinstance(subject.method, LoRA | QLoRA)
    scaling = subject.method.lora_alpha / subject.method.r
    a = layer.get_submodule("lora_A.default").get_parameter("weight").float()
    b = layer.get_submodule("lora_B.default").get_parameter("weight").float()
    weight = _dense(layer.get_submodule("base_layer")) + scaling * b @ a
    if not subject.method.use_dora:
        return weight
    magnitude = layer.get_submodule("lora_magnitude_vector.default").get_parameter("weight").float()
    return weight * (magnitude / weight.norm(dim=1))[:, None]
