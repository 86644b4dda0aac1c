"""Matrix products with weights that bitsandbytes stores in 4 bits."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.engine.autocast import cast_to
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tape
    from calculator.resident.quantization import Quantization


#: The maximum number of tokens for which every GPU multiplies without a dense copy of the weight.
FUSED_TOKENS = 4


def dequantize_4bit(tape: Tape, module: Module, quantization: Quantization) -> Tensor:
    """Allocate a temporary dense copy of a 4-bit weight (bitsandbytes.functional.dequantize_4bit)."""
    shape = module.weight.shape
    blocks = ceil(module.weight.elements / quantization.blocksize)
    absmax = tape.scratch((blocks,), "float32", "absmax, dequantized") if quantization.double_quant else None
    dense = tape.scratch(shape, quantization.compute_dtype, "weight, dequantized")
    del absmax
    return dense


def matmul_4bit(
    x: Tensor, module: Module, quantization: Quantization, bias: Tensor | None, *, keeps_input: bool = False
) -> Tensor:
    """Dequantize, multiply, and free the dense copy (bitsandbytes.matmul_4bit).

    The backward pass dequantizes again. `keeps_input`: whether the node refers to its input as an attribute, which
    checkpointing does not see.
    """
    node = None
    bias_edge = None if bias is None else bias.edge
    if x.edge or bias_edge:
        kept = x if keeps_input and x.edge else None
        node = Node(x.tape, _matmul_4bit_back, (x.edge, bias_edge), (module, quantization, kept))
    if _fused(x, quantization):
        return x.tape.new((*x.shape[:-1], module.out_features), x.dtype, "product", node)
    constants = _block_constants(x.tape, module, quantization)
    dense = x.tape.scratch(module.weight.shape, quantization.compute_dtype, "weight, dequantized")
    dense = cast_to(dense, x.dtype, "weight")
    if bias is not None and bias.dtype != x.dtype:
        # Linear4bit has already cast its bias in place (bias.data). The bias that FSDP2 gathers has another dtype.
        bias = Tensor(x.tape, None, bias.shape, x.dtype, None)
    copies = _cast_arguments(x, dense, bias)
    out = x.tape.new((*x.shape[:-1], module.out_features), copies[-1].dtype, "product", node)
    x.tape.multiply(adds_bias=bias is not None)
    del dense, constants, copies
    return out


def _fused(x: Tensor, quantization: Quantization) -> bool:
    """Return whether one kernel reads the packed weight.

    Every GPU uses this kernel for up to 4 tokens if each row consists of whole blocks. For up to 1,536 tokens it
    depends on the GPU. The calculator then counts the dense copy.

    Source: bitsandbytes/backends/cuda/ops.py, gemm_4bit, _GEMM_4BIT_CUSTOM_FLOOR_M.
    """
    return elements(x.shape[:-1]) <= FUSED_TOKENS and x.shape[-1] % quantization.blocksize == 0


def _cast_arguments(x: Tensor, dense: Tensor, bias: Tensor | None) -> list[Tensor]:
    """Return the bias, weight and input in the product's dtype.

    Under autocast they are copies, which no node saves, because the product runs under no_grad
    (bitsandbytes.autograd._functions.MatMul4Bit.forward).
    """
    tape = x.tape
    if tape.autocast is None:
        return [dense, x]
    arguments = [(dense, "weight"), (x, "input")]
    if bias is not None:
        arguments.insert(0, (bias, "bias"))
    component, tape.component = tape.component, "workspace"
    copies = [tape.autocast.cached_cast(tensor, name, grad_enabled=False) for tensor, name in arguments]
    tape.component = component
    return copies


def _block_constants(tape: Tape, module: Module, quantization: Quantization) -> list[Tensor]:
    """Allocate the block constants in float32, before and after their offset is added.

    Both live until the product is done.

    Source: bitsandbytes/backends/cuda/ops.py, _dequant_linear_fallback.
    """
    if not quantization.double_quant:
        return []
    blocks = ceil(module.weight.elements / quantization.blocksize)
    return [tape.scratch((blocks,), "float32", name) for name in ("absmax, dequantized", "absmax with offset")]


def _matmul_4bit_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    module, quantization, _ = node.context
    left, bias = node.edges
    bias_grad = grad.tape.new(grad.shape[1:], bias[3], "bias: gradient, of each position") if bias else None
    if left is None:
        return None, bias_grad
    dense = cast_to(dequantize_4bit(grad.tape, module, quantization), grad.dtype, "weight")
    x_grad = grad.tape.new(left[2], grad.dtype, "product: gradient")
    grad.tape.multiply()
    del dense
    return x_grad, bias_grad
