"""A linear layer with a RandLoRA update (peft.tuners.randlora.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.methods.targeted.adapted_linear import dropped

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule
    from calculator.methods.randlora.method import RandLoRA

#: The names of the scalings within a module, and of the shared matrices.
LAMBDA, GAMMA = "randlora_lambda", "randlora_gamma"
SHARED_A, SHARED_B = "randlora_A", "randlora_B"


def forward(method: RandLoRA, bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module plus two products of full rank."""
    dtype = x.dtype
    result = bound.base(x)
    scaled = _scaled_bases(bound)
    shared = _shared(bound)
    x = ops.cast(x, scaled.dtype, "input in the scalings' dtype")
    result = ops.add(result, _update(method, bound, x, (scaled, shared)), "result + update")
    return ops.cast(result, dtype, "output")


def _update(method: RandLoRA, bound: BoundModule, x: Tensor, bases: tuple[Tensor, Tensor]) -> Tensor:
    rows, columns = bound.module.out_features, bound.module.in_features
    first, second = bases if columns <= rows else bases[::-1]
    inner = first.shape[0] if columns <= rows else first.shape[1]
    del bases
    return ops.scale(_products(dropped(x, method.randlora_dropout), first, second, (inner, rows)), "update, scaled")


def _products(x: Tensor, first: Tensor, second: Tensor, widths: tuple[int, int]) -> Tensor:
    return products.matmul(products.matmul(x, first, None, widths[0], "A·x"), second, None, widths[1], "B·A·x")


def _shared(bound: BoundModule) -> Tensor:
    """Return a slice of the larger shared matrix: (most, bases · r)."""
    factor = bound.added[LAMBDA]
    r, bases = factor.shape
    most = max(bound.module.in_features, bound.module.out_features)
    return Tensor(factor.tape, None, (most, bases * r), factor.dtype, None)


def _scaled_bases(bound: BoundModule) -> Tensor:
    """Return λ · A · γ for each base, flattened: (r · bases, least)."""
    factor, gamma = bound.added[LAMBDA], bound.added[GAMMA]
    tape, (r, bases) = factor.tape, factor.shape
    shape = (r, bases, gamma.shape[1])
    node = None
    if factor.edge:
        node = Node(tape, _scaled_bases_back, (factor.edge, gamma.edge), (factor.shape, gamma.shape))
        node.save(factor)
        node.save(gamma)
    first = tape.scratch(shape, factor.dtype, "λ · A")
    out = tape.new((r * bases, shape[2]), factor.dtype, "scaled bases", node)
    del first
    return out


def _scaled_bases_back(node: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of λ and γ. torch.einsum makes the product of its first two factors for each of them."""
    (r, bases), gamma = node.context
    tape, shape = grad.tape, (r, bases, gamma[1])
    grads = []
    for name, own in (("λ: gradient", (r, bases)), ("γ: gradient", gamma)):
        product = tape.scratch(shape, grad.dtype, "gradient · A")
        grads.append(tape.new(own, grad.dtype, name))
        del product
    lambda_grad, gamma_grad = grads
    return lambda_grad, gamma_grad
