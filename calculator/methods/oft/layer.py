"""A linear layer whose input is rotated (peft.tuners.oft.layer.Linear and OFTRotationModule)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import named
from calculator.engine import in_place, products
from calculator.engine import operations as ops
from calculator.engine.autograd import Node
from calculator.engine.module_calls import enter, leave
from calculator.methods.reshaping import copied, permuted, tokens_of
from calculator.methods.solving import solved

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.oft.method import OFT

#: The names within a module of the one that rotates, of its parameter, and of its buffers with the indices of elements.
ROTATION = "oft_R"
WEIGHT, ROWS, COLUMNS = f"{ROTATION}.weight", f"{ROTATION}.rows", f"{ROTATION}.cols"


def forward(method: OFT, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module for the rotated input."""
    dtype = x.dtype
    x = ops.cast(x, bound.added[WEIGHT].dtype, "input in the rotations' dtype")
    path = f"{bound.name}.{ROTATION}"
    x = leave(path, _rotated(method, bound, enter(path, x)))
    x = ops.cast(x, dtype, "rotated input")
    return ops.cast(bound.base_layer(x), dtype, "output")


def _rotated(method: OFT, bound: BoundModule, x: Tensor) -> Tensor:
    rotations = _rotations(bound, method.num_cayley_neumann_terms) if method.use_cayley_neumann else _solved(bound)
    size = rotations.shape[1]
    blocks, tokens = x.shape[-1] // size, tokens_of(x)
    if method.block_share:
        rotations = ops.repeat(rotations, blocks, "rotations, repeated")
    shape = (blocks, tokens, size)
    product = products.bmm(permuted(x, shape), rotations, shape, "rotated blocks")
    return ops.cast(copied(product, x.shape, "rotated input"), x.dtype, "rotated input in its dtype")


def _rotations(bound: BoundModule, terms: int) -> Tensor:
    """Return the Cayley transform by a Neumann series: I + 2Q + 2Q² + ... + Qⁿ."""
    skew = _skew_symmetric(bound)
    tape, shape = skew.tape, skew.shape
    eye = tape.scratch(shape[1:], skew.dtype, "identity matrix")
    total = tape.new(shape, skew.dtype, "rotations")
    del eye
    if terms > 1:
        total = _add_doubled(total, skew)
        if terms > 2:
            total = _higher_powers(total, skew, terms)
    return total


def _solved(bound: BoundModule) -> Tensor:
    """Return the Cayley transform (I + Q)⁻¹ (I - Q), with an identity matrix in float32."""
    skew = _skew_symmetric(bound)
    eye = skew.tape.scratch(skew.shape[1:], "float32", "identity matrix")
    identities = ops.expand(eye, skew.shape)
    rotations = solved(ops.add(identities, skew, "I + Q"), ops.subtract(identities, skew, "I - Q"))
    return ops.cast(rotations, skew.dtype, "rotations in their entries' dtype")


def _higher_powers(total: Tensor, skew: Tensor, terms: int) -> Tensor:
    squared = power = products.bmm(skew, skew, skew.shape, "Q²")
    total = _add_doubled(total, squared)
    for _ in range(3, terms - 1):
        power = products.bmm(power, skew, skew.shape, "power of Q")
        total = _add_doubled(total, power)
    power = products.bmm(power, skew, skew.shape, "power of Q")
    return in_place.add_(total, power)


def _add_doubled(total: Tensor, term: Tensor) -> Tensor:
    """Compute total.add_(term, alpha=2)."""
    node = Node(total.tape, _add_doubled_back, (total.edge, term.edge)) if term.edge else None
    out = ops.view(total.detach(), total.shape)
    out.edge = None if node is None else (node, 0, total.shape, total.dtype)
    return out


def _add_doubled_back(_: Node, grad: Tensor) -> tuple[Tensor, Tensor | None]:
    return grad, grad.tape.new(grad.shape, grad.dtype, "power of Q: gradient")


def _skew_symmetric(bound: BoundModule) -> Tensor:
    """Return zeros with the parameter above the diagonal, less its transpose."""
    weight = bound.added[WEIGHT]
    size = named(round((1 + (1 + 8 * weight.shape[1]) ** 0.5) / 2), "oft_block_size")
    shape = (weight.shape[0], size, size)
    node = Node(weight.tape, _written_back, (weight.edge,), weight.shape) if weight.edge else None
    matrix = weight.tape.new(shape, weight.dtype, "above the diagonal", node)
    return ops.subtract(matrix, ops.view(matrix, shape), "skew-symmetric matrices")


def _written_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "rotations: gradient"),)
