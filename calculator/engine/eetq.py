"""Matrix products with weights in EETQ, as transformers' EetqLinear runs them.

Source: transformers 5.24, integrations/eetq.py, EetqLinearMMFunction; kernels-community/quantization-eetq,
cutlass_kernels/fpA_intB_gemm_wrapper.cu, w8_a16_gemm_forward_cuda, which allocates its output alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.module import Module


def matmul(x: Tensor, module: Module, bias: Tensor | None) -> Tensor:
    """Multiply, then add the bias.

    The input is saved. The backward pass dequantizes the weight.
    """
    node = Node(x.tape, _matmul_back, (x.edge,), (module, x.dtype)) if x.edge else None
    shape = (*x.shape[:-1], module.out_features)
    out = x.tape.new(shape, x.dtype, "output" if bias is None else "output without bias", node)
    if bias is not None:
        out = x.tape.new(shape, x.dtype, "output", node)
    if node is not None:
        node.save(x)
        if bias is not None:
            node.save(Tensor(x.tape, None, bias.shape, bias.dtype, None))
    return out


def _matmul_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return the gradient of the input.

    An identity matrix times the weight dequantizes it. The gradient is multiplied with the result. The weight's
    gradient has one dimension more unless the batch is one sequence. Autograd sums over that dimension.
    """
    module, dtype = node.context
    tape, side = grad.tape, module.in_features
    loaded = tape.scratch((side, side), "float32", "identity matrix in float32")
    identity = tape.scratch((side, side), dtype, "identity matrix")
    del loaded
    dense = tape.scratch((side, module.out_features), dtype, "weight, dequantized")
    rows = grad.shape[1:-1] if grad.shape[0] == 1 else grad.shape[:-1]
    x_grad = tape.new((1, *rows, side), dtype, "product: gradient")
    x_grad.viewed = True  # a view of a product of two matrices
    del identity, dense
    return (x_grad,)
