"""Matrix products with weights in AQLM, as its CUDA kernels for more than six tokens run them.

Source: aqlm 1.1.7, inference.py, _QuantizedMatmul; inference_kernels/cuda_kernel.cpp, code1x16_matmat_dequant and
code1x16_matmat_dequant_transposed, and those of 2 x 8 and 1 x 8, which allocate the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor


def matmul(x: Tensor, module: Module) -> Tensor:
    """Dequantize without scales, multiply, scale in place and copy.

    The input is saved. No dense weight is saved.
    """
    node = Node(x.tape, _matmul_back, (x.edge,), (module, x.shape)) if x.edge else None
    shape = (*x.shape[:-1], module.out_features)
    dense = x.tape.scratch((module.out_features, module.in_features), x.dtype, "weight, dequantized")
    scaled = x.tape.scratch(shape, x.dtype, "product, scaled")
    out = x.tape.new(shape, x.dtype, "output", node)
    del dense, scaled
    if node is not None:
        node.save(x)
    return out


def _matmul_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    module, shape = node.context
    scaled = grad.tape.scratch(grad.shape, grad.dtype, "gradient, scaled")
    dense = grad.tape.scratch((module.out_features, module.in_features), grad.dtype, "weight, dequantized")
    x_grad = grad.tape.new(shape, grad.dtype, "product: gradient")
    x_grad.viewed = True  # a view of a product of two matrices
    del scaled, dense
    return (x_grad,)
