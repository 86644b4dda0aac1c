"""Matrix products with weights in HQQ, by its backend of PyTorch's own operations.

Source: hqq 0.2.8, core/quantize.py, HQQLinear.matmul, HQQMatmulNoCacheMul and Quantizer.dequantize; core/bitpack.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.resident.hqq import PACKED_ROWS

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tape
    from calculator.resident.hqq import HQQWeight


def matmul(x: Tensor, module: Module, weight: HQQWeight, bias: Tensor | None) -> Tensor:
    """Dequantize, multiply, and add the bias in place.

    The input is saved. The backward pass dequantizes again.
    """
    node = Node(x.tape, _matmul_back, (x.edge,), (module, weight, x.shape)) if x.edge else None
    dense = dequantized(x.tape, module, weight)
    out = x.tape.new((*x.shape[:-1], module.out_features), x.dtype, "output", node)
    x.tape.multiply()
    del dense
    if node is not None:
        node.save(x)
        if bias is not None:
            node.save(Tensor(x.tape, None, bias.shape, bias.dtype, None))
    return out


def dequantized(tape: Tape, module: Module, weight: HQQWeight) -> Tensor:
    """Allocate a temporary dense copy of the weight: the unpacked integers less the zero points, times the scales."""
    dtype, shape = weight.compute_dtype, module.weight.shape
    unpacked = _unpacked(tape, shape, weight)
    shifted = tape.scratch(shape, dtype, "weight less its zero points")
    dense = tape.scratch(shape, dtype, "weight, dequantized")
    del unpacked, shifted
    return dense


def _unpacked(tape: Tape, shape: tuple[int, ...], weight: HQQWeight) -> Tensor:
    """Allocate the integers in the dtype of the product. They are written part by part."""
    (rows, size), stored = weight.packed(shape)
    together = PACKED_ROWS[weight.bits]
    if together == 1:
        return tape.scratch(shape, weight.compute_dtype, "unpacked weight")
    unpacked = tape.scratch((together * rows, size), weight.compute_dtype, "unpacked weight")
    masked = tape.scratch((rows, size), stored, "masked weight")
    shifted = tape.scratch((rows, size), stored, "shifted weight")
    del masked, shifted
    return unpacked


def _matmul_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    module, weight, shape = node.context
    dense = dequantized(grad.tape, module, weight)
    x_grad = grad.tape.new(shape, grad.dtype, "product: gradient")
    grad.tape.multiply()
    x_grad.viewed = True  # a view of a product of two matrices
    del dense
    return (x_grad,)
