"""A linear layer whose input is multiplied by a dense rotation and whose output is scaled (peft.tuners.boft.layer).

This is the path without PEFT's compiled kernel and with one butterfly factor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.methods.solving import solved

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names of the parameters, and of the buffer with the permutation, within a module.
ROTATION, SCALE, PERMUTATION = "boft_R", "boft_s", "boft_P"


def forward(bound: BoundModule, x: Tensor) -> Tensor:
    """Run Linear.forward, whose local variables stay until it returns."""
    tape, dtype, n = x.tape, x.dtype, bound.module.in_features
    eye = tape.new((n, n), dtype, "identity matrix")
    ones = tape.new((bound.module.out_features, 1), dtype, "ones")
    rotations = _rotations(bound.added[ROTATION])
    permutation = _permutation(bound, x)
    blocks = ops.cast(_block_diagonal(rotations, n), dtype, "block-diagonal matrix in the input's dtype")
    shape = (1, n, n)
    permuted = products.bmm(ops.view(blocks, shape), permutation, shape, "block-diagonal matrix, columns permuted")
    permuted = products.bmm(permutation, permuted, shape, "block-diagonal matrix, permuted")
    rotation = products.matmul(ops.view(permuted, (n, n)), eye, None, n, "rotation")
    del eye
    scale = ops.mul(bound.added[SCALE], ones, "scale")
    del ones
    rotation = ops.cast(rotation, dtype, "rotation in the input's dtype")
    rotated = products.matmul(x, rotation, None, n, "rotated input")
    result = _scaled(bound, bound.base(rotated), scale)
    return ops.cast(result, dtype, "output")


def _scaled(bound: BoundModule, result: Tensor, scale: Tensor) -> Tensor:
    """Return the output times the scale.

    The bias is left out, then added again.
    """
    bias = bound.own.get("bias")
    if bias is not None:
        result = ops.subtract(result, bias, "output - bias")
    result = ops.mul(result, ops.view(scale, scale.shape[:1]), "output, scaled")
    return result if bias is None else ops.add(result, bias, "output, scaled, with bias")


def _rotations(parameter: Tensor) -> Tensor:
    """Return the Cayley transform of each block, with an identity matrix in float32."""
    shape = parameter.shape[1:]
    data = ops.view(parameter, shape)
    skew = ops.scale(ops.subtract(data, ops.view(data, shape), "block - its transpose"), "skew-symmetric matrices")
    identities = ops.expand(skew.tape.new(shape[1:], "float32", "identity matrix of a block"), shape)
    rotations = solved(ops.add(identities, skew, "I + Q"), ops.subtract(identities, skew, "I - Q"))
    return ops.cast(rotations, parameter.dtype, "rotations in their parameter's dtype")


def _block_diagonal(rotations: Tensor, n: int) -> Tensor:
    """Run torch.block_diag over all rotations.

    The gradients of the blocks are views, which the backward pass of unbind stacks.
    """
    node = Node(rotations.tape, _stacked, (rotations.edge,), rotations.shape) if rotations.edge else None
    return rotations.tape.new((n, n), rotations.dtype, "block-diagonal matrix", node)


def _stacked(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "rotations: gradient"),)


def _permutation(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the permutation in the input's dtype.

    It is a copy from the host, or a copy of the float32 buffer on the GPU.
    """
    buffer = bound.added.get(PERMUTATION)
    if buffer is not None:
        return ops.cast(buffer, x.dtype, "permutation in the input's dtype")
    n = bound.module.in_features
    return x.tape.new((1, n, n), x.dtype, "permutation")
