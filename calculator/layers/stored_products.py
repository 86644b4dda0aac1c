"""The products with stored weights: the function that runs a layer for each format whose weight is not dense."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.engine import aqlm, awq, eetq, four_bit, fp8, gptq, hqq, int8, nf4, torchao
from calculator.engine import operations as ops
from calculator.engine.module_calls import kept
from calculator.resident.aqlm import AQLMWeight
from calculator.resident.awq import AWQWeight
from calculator.resident.eetq import EETQWeight
from calculator.resident.fp8 import FP8Weight
from calculator.resident.gptq import GPTQWeight
from calculator.resident.hqq import HQQWeight
from calculator.resident.int8 import Int8
from calculator.resident.quantization import Quantization
from calculator.resident.torchao_8bit import TorchAOFloat8, TorchAOInt8
from calculator.resident.torchao_nf4 import TorchAONF4

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.architecture.module import Module
    from calculator.engine.tape import Tape, Tensor
    from calculator.resident.stored_weight import StoredWeight


class Layer(NamedTuple):
    """The attributes of a layer that a product needs."""

    name: str
    module: Module
    bias: Tensor | None
    #: Whether a 4-bit layer refers to its input until the graph is freed.
    keeps_input: bool
    #: Whether a 4-bit layer computes in its input's dtype, if that is float32 or bfloat16.
    follows_input: bool = False


def _four_bit(weight: Quantization, x: Tensor, layer: Layer) -> Tensor:
    """Run bitsandbytes.nn.Linear4bit.forward."""
    x_dtype = x.dtype
    follows = layer.follows_input and x.dtype in ("float32", "bfloat16")
    x = ops.cast(x, x.dtype if follows else weight.compute_dtype, "input in the compute dtype")
    out = four_bit.matmul_4bit(x, layer.module, weight, layer.bias, keeps_input=layer.keeps_input)
    if x.edge is not None:  # the node of a trained bias alone keeps no weight
        kept(f"{layer.name}.weight", out)
    return ops.cast(out, x_dtype, "output")


def _eight_bit(_: Int8, x: Tensor, layer: Layer) -> Tensor:
    """Run bitsandbytes.nn.Linear8bitLt.forward."""
    return int8.matmul_8bit(x, layer.module, layer.bias)


def _gptq(_: GPTQWeight, x: Tensor, layer: Layer) -> Tensor:
    """Run gptqmodel's TorchLinear.forward."""
    return gptq.matmul(x, layer.module, layer.bias)


def _awq(weight: AWQWeight, x: Tensor, layer: Layer) -> Tensor:
    """Run gptqmodel's AwqGEMMLinear.forward."""
    return awq.matmul(x, layer.module, layer.bias, weight.compute_dtype)


def _torchao(_: TorchAOInt8, x: Tensor, layer: Layer) -> Tensor:
    """Run torch.nn.Linear.forward over torchao's Int8Tensor."""
    return torchao.matmul(x, layer.module, layer.bias)


def _torchao_float8(weight: TorchAOFloat8, x: Tensor, layer: Layer) -> Tensor:
    """Run torch.nn.Linear.forward over torchao's Float8Tensor."""
    return torchao.matmul_float8(x, layer.module, layer.bias, weight.dtype)


def _fp8(weight: FP8Weight, x: Tensor, layer: Layer) -> Tensor:
    """Run transformers' FP8Linear.forward."""
    return fp8.matmul(x, layer.module, weight)


def _hqq(weight: HQQWeight, x: Tensor, layer: Layer) -> Tensor:
    """Run hqq's HQQLinear.forward."""
    return hqq.matmul(x, layer.module, weight, layer.bias)


def _eetq(_: EETQWeight, x: Tensor, layer: Layer) -> Tensor:
    """Run transformers' EetqLinear.forward."""
    return eetq.matmul(x, layer.module, layer.bias)


def _aqlm(_: AQLMWeight, x: Tensor, layer: Layer) -> Tensor:
    """Run aqlm's QuantizedLinear.forward."""
    return aqlm.matmul(x, layer.module)


def _nf4(_: TorchAONF4, x: Tensor, layer: Layer) -> Tensor:
    """Run torchtune's FrozenNF4Linear.forward, or the base of its LoRALinear."""
    return nf4.matmul(x, layer.module, layer.bias)


#: The product of each format: (..., in_features) to (..., out_features).
PRODUCTS: dict[type[StoredWeight], Callable[[Any, Tensor, Layer], Tensor]] = {
    Quantization: _four_bit,
    Int8: _eight_bit,
    GPTQWeight: _gptq,
    AWQWeight: _awq,
    TorchAOInt8: _torchao,
    TorchAOFloat8: _torchao_float8,
    FP8Weight: _fp8,
    HQQWeight: _hqq,
    EETQWeight: _eetq,
    AQLMWeight: _aqlm,
    TorchAONF4: _nf4,
}

#: Returns a temporary dense copy of a weight, for DoRA's norms. Only for formats with which PEFT supports DoRA.
DENSE: dict[type[StoredWeight], Callable[[Tape, Module, Any], Tensor]] = {
    Quantization: four_bit.dequantize_4bit,
    Int8: lambda tape, module, _: int8.dequantize_8bit(tape, module),
}
