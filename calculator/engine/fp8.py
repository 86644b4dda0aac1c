"""Matrix products with weights in FP8, as transformers' FP8Linear runs them with its Triton kernels.

Source: transformers 5.24, integrations/finegrained_fp8.py, FP8LinearFunction and _dequantize_fp8_weight;
kernels-community/finegrained-fp8, matmul.py, matmul_2d and the functions that it calls.
"""

from __future__ import annotations

from math import ceil, prod
from typing import TYPE_CHECKING

from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.resident.fp8 import FP8Weight


def matmul(x: Tensor, module: Module, weight: FP8Weight) -> Tensor:
    """Multiply in 8 bits, and add the bias in place.

    The backward pass dequantizes the weight. No input is saved.
    """
    node = Node(x.tape, _matmul_back, (x.edge,), (module, weight, x.shape)) if x.edge else None
    quantized = _quantized_rows(x) if weight.block is None else []
    out = x.tape.new((*x.shape[:-1], module.out_features), x.dtype, "output", node)
    del quantized
    if node is not None:
        # Both are resident. A checkpoint recomputes the product nonetheless, because it packs every saved tensor.
        node.save(Tensor(x.tape, None, (module.out_features, module.in_features), "float8_e4m3fn", None))
        node.save(Tensor(x.tape, None, (), "float32", None))
    return out


def _quantized_rows(x: Tensor) -> list[Tensor]:
    """Return the input in 8 bits and a scale for each row.

    If the scales are per block, the kernel quantizes in registers and allocates neither.
    """
    return [
        x.tape.scratch(x.shape, "float8_e4m3fn", "input in 8 bits"),
        x.tape.scratch((prod(x.shape[:-1]),), "float32", "scales of the input's rows"),
    ]


def _matmul_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    module, weight, inputs = node.context
    tape, shape = grad.tape, (module.out_features, module.in_features)
    scales = None
    if weight.block is not None:
        rows, columns = (ceil(side / block) for side, block in zip(shape, weight.block, strict=True))
        if grad.dtype != "float32":
            scales = tape.scratch((rows, columns), grad.dtype, "scales in the gradient's dtype")
    elif grad.dtype != "float32":
        scales = tape.scratch((), grad.dtype, "scale in the gradient's dtype")
    dense = tape.scratch(shape, grad.dtype, "weight, dequantized")
    if weight.block is not None:
        tape.scratch((rows * weight.block[0], columns), grad.dtype, "scales of each row")
    del scales
    x_grad = tape.new(inputs, grad.dtype, "product: gradient")
    tape.multiply()
    x_grad.viewed = True  # a view of a product of two matrices
    del dense
    return (x_grad,)
