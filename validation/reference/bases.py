"""Quantized bases of LoRA as their libraries' own modules build them on the meta device.

The libraries are not among the project's requirements: `pip install gptqmodel optimum hqq aqlm` before a trace.
"""

from __future__ import annotations

import importlib
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from peft.import_utils import is_eetq_available
from torch import nn
from transformers.quantizers.base import _assign_is_quantized, get_keys_to_not_convert
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import AqlmConfig, FineGrainedFP8Config, QuantizationMethod

from calculator.bases.eetq import TILE
from calculator.resident.aqlm import AQLMWeight
from calculator.resident.awq import AWQWeight
from calculator.resident.eetq import EETQWeight
from calculator.resident.fp8 import FP8Weight
from calculator.resident.gptq import GPTQWeight
from calculator.resident.hqq import HQQWeight
from calculator.resident.torchao_8bit import TorchAOFloat8, TorchAOInt8

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.resident.stored_weight import StoredWeight


def quantize(model: nn.Module, weight: StoredWeight) -> None:
    """Store the linear layers of a model on the meta device as its library's loader does."""
    method = BUILDERS[type(weight)](model, weight)
    model.is_quantized = True
    model.quantization_method = method
    _assign_is_quantized(model)
    model.requires_grad_(requires_grad=False)


def _gptq(model: nn.Module, weight: Any) -> QuantizationMethod:
    """Replace the layers that optimum replaces by gptqmodel's TorchLinear, as TritonV2Linear is in training.

    Its compiled dequantization allocates the dense weight alone (see `calculator.bases.gptq.COMPILED`).
    """
    from gptqmodel.nn_modules.qlinear.torch import TorchLinear  # noqa: PLC0415
    from optimum.gptq import GPTQQuantizer  # noqa: PLC0415
    from optimum.gptq.utils import get_block_name_with_pattern, get_layers  # noqa: PLC0415

    size = -1 if weight.group_size is None else weight.group_size
    quantizer = GPTQQuantizer(bits=weight.bits, group_size=size)
    quantizer.quant_linear = TorchLinear
    quantizer._replace_by_quant_layers(model, get_layers(model, prefix=get_block_name_with_pattern(model)))
    for layer in (module for module in model.modules() if isinstance(module, TorchLinear)):
        layer.to("meta")
        layer._init_wf_unsqueeze_buffers()

        def dequantized(num_itr: int = 1, layer: Any = layer) -> torch.Tensor:
            assert num_itr == 1
            return layer.scales.new_empty(layer.in_features, layer.out_features)

        layer.dequantize_weight = dequantized
    return QuantizationMethod.GPTQ


def _awq(model: nn.Module, weight: Any) -> QuantizationMethod:
    """Replace the layers that transformers replaces by gptqmodel's AwqGEMMLinear, with its kernels' allocations.

    Source: transformers/integrations/awq.py, replace_with_awq_linear.
    """
    from gptqmodel.nn_modules.qlinear import gemm_awq  # noqa: PLC0415

    gemm_awq.awq_dequantize_weights = _awq_dequantized
    gemm_awq.awq_gemm_forward = _awq_product
    gemm_awq.AwqGEMMLinear.validate_once = classmethod(lambda _: (True, None))
    kept = get_keys_to_not_convert(model)
    size = -1 if weight.group_size is None else weight.group_size
    settings = {"bits": 4, "group_size": size, "sym": False, "desc_act": False, "register_buffers": True}
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and should_convert_module(path, kept):
            sides = {"in_features": layer.in_features, "out_features": layer.out_features}
            with torch.device("meta"):
                new = gemm_awq.AwqGEMMLinear(**settings, **sides, bias=layer.bias is not None)
            new._ensure_runtime_dtype(getattr(torch, weight.compute_dtype))
            model.set_submodule(path, new)
    return QuantizationMethod.AWQ


def _awq_dequantized(qweight: torch.Tensor, scales: torch.Tensor, *_: Any) -> torch.Tensor:
    """Allocate as dequantize_weights_cuda: the dense weight in the dtype of scales."""
    return scales.new_empty(qweight.shape[0], qweight.shape[1] * 8)


def _awq_product(
    x: torch.Tensor, qweight: torch.Tensor, scales: torch.Tensor, qzeros: torch.Tensor, parts: int, in_float32: bool
) -> torch.Tensor:
    """Allocate as launch_gemm_forward_cuda_fp32_reduce: parts in float32, and their sum."""
    del scales, qzeros
    assert in_float32
    partial = x.new_empty(parts, x.shape[0], qweight.shape[1] * 8, dtype=torch.float32)
    return x.new_empty(partial.shape[1:])


def _torchao(model: nn.Module, weight: Any) -> QuantizationMethod:
    """Quantize the weights that transformers quantizes with torchao's config.

    Source: transformers/quantizers/quantizer_torchao.py, param_needs_quantization.
    """
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig, quantize_  # noqa: PLC0415

    kept = get_keys_to_not_convert(model)
    for path, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear) and should_convert_module(f"{path}.weight", kept):
            quantize_(layer, Int8WeightOnlyConfig() if isinstance(weight, TorchAOInt8) else Float8WeightOnlyConfig())
    return QuantizationMethod.TORCHAO


def _fp8(model: nn.Module, weight: Any) -> QuantizationMethod:
    """Replace the layers that transformers replaces by its FP8Linear, with its Triton kernels' allocations."""
    from transformers.integrations import finegrained_fp8  # noqa: PLC0415

    finegrained_fp8.is_deepgemm_loadable = lambda: False
    finegrained_fp8.load_finegrained_fp8_kernel = lambda: finegrained_fp8.FineGrainedFP8(_fp8_product, None, None)
    scheme = "static" if weight.static else "dynamic"
    config = FineGrainedFP8Config(activation_scheme=scheme, weight_block_size=weight.block)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(next(model.parameters()).dtype)
    try:
        finegrained_fp8.replace_with_fp8_linear(model, get_keys_to_not_convert(model), config)
    finally:
        torch.set_default_dtype(dtype)
    return QuantizationMethod.FP8


def _fp8_product(
    x: torch.Tensor,
    weight: torch.Tensor,
    scales: torch.Tensor,
    block: list[int] | None,
    dtype: torch.dtype,
    activation_scale: torch.Tensor | None = None,
) -> torch.Tensor:
    """Allocate as matmul_2d: with one scale for the weight, the input in 8 bits and its scales too."""
    del scales, activation_scale
    rows = [] if block else [x.new_empty(x.shape, dtype=weight.dtype), x.new_empty(x.shape[:-1], dtype=torch.float32)]
    out = x.new_empty(*x.shape[:-1], weight.shape[0], dtype=dtype)
    del rows
    return out


def _hqq(model: nn.Module, weight: Any) -> QuantizationMethod:
    """Replace the layers that the package hqq replaces by its HQQLinear, quantized without a search for zero points."""
    from hqq.core import quantize  # noqa: PLC0415
    from hqq.models.hf.base import AutoHQQHFModel  # noqa: PLC0415

    quantize.Quantizer.optimize_weights = lambda tensor, scale, zero, **_: (tensor, scale, zero)
    config = quantize.BaseQuantizeConfig(nbits=weight.bits, group_size=weight.group_size, axis=1)
    AutoHQQHFModel.quantize_model(model, config, getattr(torch, weight.compute_dtype), "meta")
    return QuantizationMethod.HQQ


def _eetq(model: nn.Module, _: Any) -> QuantizationMethod:
    """Replace the layers that transformers replaces by its EetqLinear, with its kernel's output alone."""
    from transformers.integrations import eetq, hub_kernels  # noqa: PLC0415

    kernel = SimpleNamespace(w8_a16_gemm=_eetq_product)
    hub_kernels.get_kernel = lambda *_, **__: kernel
    # An identity matrix of zeros: a CPU's time is not wanted here.
    eetq.torch = SimpleNamespace(**{**vars(torch), "eye": lambda side: torch.zeros(()).expand(side, side)})
    eetq.replace_with_eetq_linear(model, get_keys_to_not_convert(model), pre_quantized=True)
    sides = {side for module in model.modules() if isinstance(module, eetq.EetqLinear) for side in module.weight.shape}
    if any(side % TILE for side in sides):
        raise ValueError(f"Our kernels only handle dims which are multiples of {TILE}")
    _take_eetq(eetq.EetqLinear)
    return QuantizationMethod.EETQ


def _eetq_product(x: torch.Tensor, weight: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
    """Allocate as w8_a16_gemm_forward_cuda."""
    return x.new_empty(*x.shape[:-1], weight.shape[-1])


def _take_eetq(layer: type[nn.Module]) -> None:
    """Give PEFT a package eetq, without which it has no LoRA layer over EETQ."""
    import peft.tuners.lora.eetq  # noqa: PLC0415
    import peft.tuners.lora.model  # noqa: PLC0415

    package = ModuleType("eetq")
    package.__spec__ = ModuleSpec("eetq", None)
    package.__dict__["EetqLinear"] = layer
    sys.modules["eetq"] = package
    is_eetq_available.cache_clear()
    peft.tuners.lora.model.dispatch_eetq = importlib.reload(peft.tuners.lora.eetq).dispatch_eetq


def _aqlm(model: nn.Module, weight: Any) -> QuantizationMethod:
    """Replace the linear layers except the head by aqlm's QuantizedLinear, with its CUDA kernels' allocations."""
    from aqlm import inference  # noqa: PLC0415
    from transformers.integrations.aqlm import replace_with_aqlm_linear  # noqa: PLC0415

    config = AqlmConfig(num_codebooks=weight.codebooks, nbits_per_codebook=weight.bits)
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, weight.dtype))
    try:
        replace_with_aqlm_linear(model, get_keys_to_not_convert(model), config)
    finally:
        torch.set_default_dtype(dtype)
    product = inference._get_autograd_matmul_op(_aqlm_product, _aqlm_gradient)
    for layer in (module for module in model.modules() if isinstance(module, inference.QuantizedLinear)):
        layer.gemv_op = layer.gemm_op = product
        layer.use_gemv_rule = lambda _: False
    return QuantizationMethod.AQLM


def _aqlm_product(
    x: torch.Tensor, codes: torch.Tensor, codebooks: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Allocate as code1x16_matmat_dequant and those of other codes."""
    assert bias is None
    rows = x.reshape(-1, x.shape[-1])
    weight = codebooks.new_empty(codes.shape[0], x.shape[-1])
    product = nn.functional.linear(rows, weight)
    product *= scales.flatten().unsqueeze(0)
    return product.reshape(*x.shape[:-1], -1).clone()


def _aqlm_gradient(
    grad: torch.Tensor, codes: torch.Tensor, codebooks: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Allocate as code1x16_matmat_dequant_transposed and those of other codes."""
    assert bias is None
    scaled = (grad.reshape(-1, grad.shape[-1]) * scales.flatten().unsqueeze(0)).reshape(grad.shape)
    weight = codebooks.new_empty(codes.shape[0], codes.shape[1] * 8)
    return nn.functional.linear(scaled, weight.transpose(0, 1))


def parts(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors that one of torchao's holds: its data, and what else is stored; empty for others."""
    names = getattr(parameter, "tensor_data_names", ())
    return {name: getattr(parameter, name) for name in names}


#: The names of buffers that are stored in addition to a weight.
CONSTANTS = frozenset({"qzeros", "scales", "g_idx", "wf_unsqueeze_zero", "wf_unsqueeze_neg_one"})

#: The names of parameters that are stored in addition to a weight.
SCALES = ("weight_scale_inv", "activation_scale", "weight_scales", ".codebooks", ".scales")


def constants(model: nn.Module) -> set[int]:
    """Return the identities of the buffers that quantized layers store in addition to their weights."""
    layers = (module for module in model.modules() if hasattr(module, "qweight"))
    return {id(buffer) for layer in layers for name, buffer in layer.named_buffers() if name in CONSTANTS}


#: The builder of each format.
BUILDERS: dict[type[StoredWeight], Callable[[nn.Module, Any], QuantizationMethod]] = {
    GPTQWeight: _gptq,
    AWQWeight: _awq,
    TorchAOInt8: _torchao,
    TorchAOFloat8: _torchao,
    FP8Weight: _fp8,
    HQQWeight: _hqq,
    EETQWeight: _eetq,
    AQLMWeight: _aqlm,
}
