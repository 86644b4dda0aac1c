"""Matrix products with weights in GPTQ, as gptqmodel runs them in training.

Source: gptqmodel 7.7.0, nn_modules/qlinear/torch.py, TorchLinear.forward, which TritonV2Linear calls in training.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.in_place import add_view_

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.engine.tape import Tensor


def matmul(x: Tensor, module: Module, bias: Tensor | None) -> Tensor:
    """Dequantize and multiply.

    If the input needs a gradient, autograd saves the dense weight.
    """
    dense = x.tape.scratch((module.in_features, module.out_features), "float16", "weight, dequantized")
    dense = ops.cast(dense, x.dtype, "dequantized weight in the input's dtype")
    out = products.matmul(x, dense, None, module.out_features, "output")
    del dense
    return out if bias is None else add_view_(out, ops.cast(bias, out.dtype, "bias in the output's dtype"))
