"""Matrix products with weights that bitsandbytes stores in 8 bits (LLM.int8()), for inputs without outliers.

Source: bitsandbytes/autograd/_functions.py, MatMul8bitLt; backends/cuda/ops.py and backends/default/ops.py.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tape


def matmul_8bit(x: Tensor, module: Module, bias: Tensor | None) -> Tensor:
    """Quantize the input, multiply in int8, and scale the result (bitsandbytes.matmul).

    The node refers to its input as an attribute, which checkpointing does not see.
    """
    tape, shape = x.tape, (*x.shape[:-1], module.out_features)
    node = None
    bias_edge = None if bias is None else bias.edge
    if x.edge or bias_edge:
        # Without a graph, as in a re-entrant checkpoint, the node is freed when the call returns.
        kept = x if x.edge and tape.grad_enabled else None
        node = Node(tape, _matmul_8bit_back, (x.edge, bias_edge), (module, x.dtype, kept))
    quantized = _quantized(x)
    out = _product(x, module)
    del quantized
    return Tensor(tape, out.storage, shape, out.dtype, node)


def _rows(x: Tensor) -> Shape:
    return (prod(x.shape[:-1]), x.shape[-1])


def _quantized(x: Tensor) -> list[Tensor]:
    """Return the input in 8 bits and the scale of each row.

    The search for outliers runs too (int8_vectorwise_quant).
    """
    tape, rows = x.tape, _rows(x)
    half = None if x.dtype == "float16" else tape.scratch(rows, "float16", "input in float16")
    scales = tape.scratch(rows[:1], "float32", "scales of the input's rows")
    quantized = tape.scratch(rows, "int8", "input in 8 bits")
    absolute = tape.scratch(rows, "float16", "absolute values of the input")
    outliers = tape.scratch(rows, "bool", "whether it is an outlier")
    del absolute
    tape.scratch((), "bool", "whether any is an outlier")
    if rows[0] > 1:
        tape.scratch((), "int8", "zero for columns of outliers")
    del half, outliers
    return [quantized, scales]


def _product(x: Tensor, module: Module) -> Tensor:
    """Multiply in int32, then scale into float16, then cast to the input's dtype (int8_scaled_mm)."""
    tape, shape = x.tape, (_rows(x)[0], module.out_features)
    product = tape.scratch(shape, "int32", "product in int32")
    if module.in_features % 4:
        _multiply_in_float32(x, module)
    half = tape.new(shape, "float16", "product")
    out = half if x.dtype == "float16" else tape.new(shape, x.dtype, "product")
    del product, half
    return out


def _multiply_in_float32(x: Tensor, module: Module) -> None:
    """Multiply in float32 (int8_linear_matmul).

    cuBLASLt has no int8 product for input sizes that 4 does not divide.
    """
    tape, rows = x.tape, _rows(x)
    factors = [
        tape.scratch(rows, "float32", "input in float32"),
        tape.scratch((module.out_features, module.in_features), "float32", "weight in float32"),
    ]
    result = tape.scratch((rows[0], module.out_features), "float32", "product in float32")
    del factors
    tape.scratch(result.shape, "int32", "product, converted")


def dequantize_8bit(tape: Tape, module: Module) -> Tensor:
    """Allocate a temporary dense copy of the weight in float32 (bitsandbytes.functional.int8_vectorwise_dequant)."""
    shape = (module.out_features, module.in_features)
    product = tape.scratch(shape, "float32", "weight · scales")
    dense = tape.scratch(shape, "float32", "weight, dequantized")
    del product
    return dense


def _matmul_8bit_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    module, dtype, _ = node.context
    left, bias = node.edges
    bias_grad = grad.tape.new(grad.shape[1:], bias[3], "bias: gradient, of each position") if bias else None
    if left is None:
        return None, bias_grad
    dense = grad.tape.scratch((module.out_features, module.in_features), dtype, "weight, dequantized")
    grad.tape.scratch((module.out_features, 1), "float32", "scales / 127")
    grad = ops.cast(grad, dtype, "gradient in the input's dtype")
    x_grad = grad.tape.new(left[2], dtype, "product: gradient")
    x_grad.viewed = True  # a view of a product of two matrices
    del dense
    return x_grad, bias_grad
