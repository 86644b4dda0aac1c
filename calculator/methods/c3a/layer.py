"""A linear layer with an update of circulant blocks (peft.tuners.c3a.layer.C3ALinear).

Complex tensors have the shape of their real and imaginary parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.methods.reshaping import tokens_of
from calculator.methods.targeted.adapted_linear import add_to_output_

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.tape import Tape
    from calculator.layers.bound_module import BoundModule

#: The parameter's name within its module.
KERNEL = "c3a_kernel"


def forward(bound: BoundModule, x: Tensor) -> Tensor:
    """Run the frozen module, and add the convolution to its output in place. Return it in the input's dtype."""
    dtype = x.dtype
    result = bound.base(x)
    x = ops.cast(x, "float32", "input in float32")
    kernel = ops.cast(bound.added[KERNEL], "float32", "kernel in float32")
    update = ops.scale(_convolved(x, kernel, bound.module.out_features), "update")
    result = add_to_output_(bound, result, ops.cast(update, result.dtype, "update in the output's dtype"))
    return ops.cast(result, dtype, "output")


def _convolved(x: Tensor, kernel: Tensor, width: int) -> Tensor:
    """Run BlockCircularConvolution, which saves its input and its kernel and computes both gradients."""
    tape, (rows, columns, size) = x.tape, kernel.shape
    tokens = tokens_of(x)
    product = _product(
        (_transform(tape, x.shape, "input"), _transform(tape, kernel.shape, "kernel")),
        (size, tokens, columns),
        (size, columns, rows),
    )
    out = tape.new((*x.shape[:-1], width, 2), "float32", "update, transformed")
    del product
    node = Node(tape, _convolved_back, (x.edge, kernel.edge)) if x.edge or kernel.edge else None
    if node is not None:  # a function saves its tensors once its forward has returned
        node.save(x)
        node.save(kernel)
    return Tensor(tape, out.storage, (*x.shape[:-1], width), "float32", node)


def _transform(tape: Tape, shape: Shape, name: str) -> Tensor:
    """Run torch.fft.fft or ifft on real numbers. A complex copy holds them."""
    copy = tape.new((*shape, 2), "float32", f"{name}, complex")
    out = tape.new((*shape, 2), "float32", f"{name}, transformed")
    del copy
    return out


def _product(factors: tuple[Tensor, Tensor], left: Shape, right: Shape) -> Tensor:
    """Return torch.einsum of complex factors.

    cuBLAS does not read their layouts, so torch.bmm copies them.

    Source: ATen/native/cuda/Blas.cpp, prepare_batch_matrix_for_cublas.
    """
    tape = factors[0].tape
    out = tape.new((left[0], left[1], right[2], 2), "float32", "product of transforms")
    copies = [tape.scratch((*shape, 2), "float32", "transform, copied for bmm") for shape in (left, right)]
    del copies
    return out


def _convolved_back(node: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    tape, (x, kernel) = grad.tape, node.saved
    (rows, columns, size), tokens = kernel.shape, tokens_of(x)
    output_transform = _transform(tape, grad.shape, "gradient")
    product = _product(
        (output_transform, _transform(tape, kernel.shape, "kernel")), (size, tokens, rows), (size, rows, columns)
    )
    x_grad = tape.new((*x.shape, 2), "float32", "convolution: gradient of the input")
    del product
    factors = (output_transform, _transform(tape, x.shape, "input"))
    product = _product(factors, (size, rows, tokens), (size, tokens, columns))
    del factors
    kernel_grad = tape.new((*kernel.shape, 2), "float32", "convolution: gradient of the kernel")
    del product
    return (
        Tensor(tape, x_grad.storage, x.shape, "float32", None),
        Tensor(tape, kernel_grad.storage, kernel.shape, "float32", None),
    )
