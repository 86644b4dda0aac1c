"""The gradient of softmax."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tensor

#: The names of the gradient of a softmax's input, and of the temporary that its kernel allocates on CUDA.
SOFTMAX_GRADIENT, SOFTMAX_TEMPORARY = "softmax: gradient", "softmax: gradient times output"


def softmax_gradient(grad: Tensor, dtype: DType) -> Tensor:
    """Return the gradient of a softmax's input. On CUDA, the kernel multiplies the given gradient by the output first.

    Source: aten/src/ATen/native/cuda/SoftMax.cu, softmax_backward_cuda_out.
    """
    out = grad.tape.new(grad.shape, dtype, SOFTMAX_GRADIENT)
    if grad.tape.cuda:
        grad.tape.scratch(grad.shape, grad.dtype, SOFTMAX_TEMPORARY)
    return out
