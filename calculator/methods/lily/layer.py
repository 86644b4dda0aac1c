"""A linear layer with an update whose B is mixed from shared matrices (peft.tuners.lily.layer.Linear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.methods.lily.sharing import ROUTER, A, B
from calculator.methods.reshaping import tokens_of

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule


def forward(bound: BoundModule, x: Tensor) -> Tensor:
    """Return the output of the frozen module plus the update."""
    result = bound.base(x)
    a, b, router = _matrix(bound, A), _matrix(bound, B), bound.added[ROUTER]
    # Its node runs last in the backward pass, because it comes first.
    b = ops.view(b, (router.shape[0], a.shape[0], b.shape[1]))
    x = ops.cast(x, a.dtype, "input in the matrices' dtype")
    hidden = products.matmul(x, a, None, a.shape[0], "A·x")
    logits = products.matmul(hidden, router, None, router.shape[0], "router's logits")
    probabilities = ops.softmax(logits)
    expert_weights = _mean_of_tokens(probabilities)
    mixed = _mixed(expert_weights, b)
    delta = products.matmul(hidden, ops.view(mixed, mixed.shape[::-1]), None, mixed.shape[1], "update")
    return ops.add(result, _scaled(delta, result), "result + update")


def _scaled(delta: Tensor, result: Tensor) -> Tensor:
    return ops.cast(ops.scale(delta, "update, scaled"), result.dtype, "update in the output's dtype")


def _matrix(bound: BoundModule, name: str) -> Tensor:
    return next(tensor for parameter, tensor in bound.added.items() if parameter.startswith(f"{name}."))


def _mean_of_tokens(probabilities: Tensor) -> Tensor:
    """Return the mean over all tokens: (num_B)."""
    number = probabilities.shape[-1]
    flat = ops.view(probabilities, (tokens_of(probabilities), number))
    node = Node(flat.tape, _mean_back, (flat.edge,), flat.shape) if flat.edge else None
    return flat.tape.new((number,), flat.dtype, "mean probabilities", node)


def _mean_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(node.context, grad.dtype, "mean probabilities: gradient"),)


def _mixed(weights: Tensor, b: Tensor) -> Tensor:
    """Return torch.einsum("e,eio->io", weights, B): (r, out_features)."""
    number, r, width = b.shape
    rows, matrices = ops.view(weights, (1, 1, number)), ops.view(b, (1, number, r * width))
    return ops.view(products.bmm(rows, matrices, (1, 1, r * width), "mixed B"), (r, width))
