"""Matrix products with weights that torchao stores in 8 bits.

Source: torchao 0.18, quantization/quantize_/workflows/int8/int8_tensor.py, the implementation of linear, and
float8/float8_tensor.py, _float8_addmm_impl; quantization/quant_primitives.py, _dequantize_affine_float8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.in_place import add_view_
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from calculator.architecture.module import Module
    from calculator.common.dtype import DType


def matmul(x: Tensor, module: Module, bias: Tensor | None) -> Tensor:
    """Cast the weight to the input's dtype, multiply, and scale each output.

    Autograd saves the cast weight.
    """
    tape, shape = x.tape, (module.in_features, module.out_features)
    dense = tape.scratch(shape, x.dtype, "weight in the input's dtype")
    product = products.matmul(x, dense, None, module.out_features, "product")
    del dense
    scales = Tensor(tape, None, (module.out_features,), "float32", None)
    scales = ops.cast(scales, product.dtype, "scales in the product's dtype")
    out = ops.mul(product, scales, "output")
    del product, scales
    if bias is not None:
        out = add_view_(out, bias)
    return out


def matmul_float8(x: Tensor, module: Module, bias: Tensor | None, weight_dtype: DType) -> Tensor:
    """Dequantize the weight in float32, cast it, and multiply.

    Autograd saves the cast weight.
    """
    tape, shape = x.tape, (module.in_features, module.out_features)
    in_float32 = tape.scratch(shape, "float32", "weight in float32")
    scaled = tape.scratch(shape, "float32", "weight, dequantized")
    dense = ops.cast(scaled, weight_dtype, "dequantized weight in the model's dtype")
    del in_float32, scaled
    out = products.matmul(x, dense, None, module.out_features, "output" if bias is None else "output without bias")
    del dense
    return out if bias is None else ops.add(out, bias, "output")
