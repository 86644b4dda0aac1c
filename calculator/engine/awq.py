"""Matrix products with weights in AWQ, as gptqmodel's kernel for GPUs runs them in training.

Source: gptqmodel 7.7.0, nn_modules/qlinear/gemm_awq.py, AwqGEMMLinear.forward and AwqGemmFn;
gptqmodel_ext/awq/quantization/gemm_cuda_gen.cu, dequantize_weights_cuda and launch_gemm_forward_cuda_fp32_reduce.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType

#: The maximum number of rows that the fused kernel multiplies, and the number of partial results that it sums in
#: float32.
FUSED_ROWS, PARTS = 1024, 8


def matmul(x: Tensor, module: Module, bias: Tensor | None, compute_dtype: DType) -> Tensor:
    """Dequantize and multiply, or sum the partial results of the fused kernel. The backward pass dequantizes.

    Only the stored weight is saved.
    """
    x_dtype = x.dtype
    x = ops.cast(x, compute_dtype, "input in the compute dtype")
    node = Node(x.tape, _matmul_back, (x.edge,), (module, x.shape)) if x.edge else None
    rows, shape = prod(x.shape[:-1]), (*x.shape[:-1], module.out_features)
    if rows > FUSED_ROWS:
        scratch = x.tape.scratch((module.in_features, module.out_features), compute_dtype, "weight, dequantized")
    else:
        scratch = x.tape.scratch((PARTS, rows, module.out_features), "float32", "parts of the product")
    name = "output" if bias is None else "output without bias"
    out = x.tape.new(shape, compute_dtype, name, node)
    del scratch
    if bias is not None:
        out = x.tape.new(shape, compute_dtype, "output", node)
    if node is not None:
        # The stored weight is resident. A checkpoint recomputes the product nonetheless, because it packs every saved
        # tensor.
        node.save(Tensor(x.tape, None, (), "int32", None))
    return ops.cast(out, x_dtype, "output in the input's dtype")


def _matmul_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    module, shape = node.context
    dense = grad.tape.scratch((module.in_features, module.out_features), grad.dtype, "weight, dequantized")
    x_grad = grad.tape.new(shape, grad.dtype, "product: gradient")
    x_grad.viewed = True  # a view of a product of two matrices
    del dense
    return (x_grad,)
