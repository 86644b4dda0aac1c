"""A linear layer whose outputs are rotated in pairs (peft.tuners.road.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.road.method import RoAd

#: The names of the parameters within a module.
THETA, ALPHA = "road_theta", "road_alpha"


def forward(method: RoAd, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the rotated output of the frozen module."""
    result = bound.base_layer(x)
    dtype = result.dtype
    result = ops.cast(result, bound.added[THETA].dtype, "output in the angles' dtype")
    return ops.cast(_rotated(method, bound, result), dtype, "output")


def _rotated(method: RoAd, bound: BoundModule, x: Tensor) -> Tensor:
    first, second = _columns(method, bound)
    halves = _halves(x)
    turned = _rotate(halves, x)
    return ops.add(
        ops.mul(x, first, "output · cosines"), ops.mul(turned, second, "turned output · sines"), "rotated output"
    )


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return both halves of each group as views."""
    shape = (*x.shape[:-1], x.shape[-1] // 2)
    return ops.slice_from_end(x, shape), ops.slice_from_end(x, shape)


def _rotate(halves: tuple[Tensor, Tensor], x: Tensor) -> Tensor:
    first, second = halves
    return ops.cat((ops.scale(second, "second half, negated"), first), x.shape, "turned output")


def _columns(method: RoAd, bound: BoundModule) -> tuple[Tensor, Tensor]:
    """Return α · cos θ and α · sin θ for each output."""
    theta, alpha, width = bound.added[THETA], bound.added[ALPHA], bound.module.out_features
    if method.variant == "road_1":
        theta, alpha = (_repeated(parameter, width) for parameter in (theta, alpha))
    if method.variant == "road_4":
        cosines = ops.unary(ops.slice_from_end(theta, (width,)), "cosines", saves="input", temporaries=1)
        sines = ops.unary(ops.slice_from_end(theta, (width,)), "sines", saves="input", temporaries=1)
        parts = [ops.slice_from_end(alpha, (width,)) for _ in range(2)]
        if width > method.group_size:  # the halves of several groups are not contiguous
            parts = [ops.contiguous(part, "half of α") for part in parts]
        return ops.mul(parts[0], cosines, "α · cos θ"), ops.mul(parts[1], sines, "α · sin θ")
    cosines = ops.unary(theta, "cosines", saves="input", temporaries=1)
    sines = ops.unary(theta, "sines", saves="input", temporaries=1)
    return ops.mul(alpha, cosines, "α · cos θ"), ops.mul(alpha, sines, "α · sin θ")


def _repeated(x: Tensor, width: int) -> Tensor:
    """Return each half group twice. The gradient of the copies is summed."""
    node = Node(x.tape, _repeated_back, (x.edge,), x.shape) if x.edge else None
    return x.tape.new((width,), x.dtype, "repeated", node)


def _repeated_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "repeated: gradient"),)
