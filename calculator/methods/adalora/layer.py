"""A linear layer with an update in the form of a singular value decomposition (peft.tuners.adalora.layer.SVDLinear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import operations as ops
from calculator.engine import products
from calculator.engine.autograd import Node
from calculator.engine.result_types import result_type
from calculator.methods.targeted.adapted_linear import add_to_output_, dropped

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.bound_module import BoundModule

#: The names of the parameters within a module: the singular vectors, the singular values, and the number of ranks.
A, B, E, RANKS = "lora_A", "lora_B", "lora_E", "ranknum"


def forward(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Run the frozen module, and add the update to its output in place."""
    result = bound.base(x)
    ranks = ops.shift(bound.added[RANKS], "number of ranks")
    x = ops.cast(x, bound.added[A].dtype, "input in the factors' dtype")
    update = ops.scale(_update(bound, x, dropout), "update, scaled")
    update = _divided(update, ranks)
    return add_to_output_(bound, result, update)


def _update(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    a, b = bound.added[A], bound.added[B]
    inner = products.matmul(dropped(x, dropout), _scaled(bound), None, a.shape[0], "A·E·x")
    return products.matmul(inner, ops.view(b, b.shape[::-1]), None, b.shape[0], "B·A·E·x")


def _scaled(bound: BoundModule) -> Tensor:
    return ops.mul(bound.added[A], bound.added[E], "A · E")


def _divided(x: Tensor, ranks: Tensor) -> Tensor:
    """Divide by a tensor with one number, which is saved. Under autocast its data type is wider than the update's."""
    node = Node(x.tape, _divided_back, (x.edge,)) if x.edge else None
    if node is not None:
        node.save(ranks)
    dtype = result_type(x.dtype, ranks.dtype)
    return x.tape.new(x.shape, dtype, "update over the number of ranks", node)


def _divided_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    return (grad.tape.new(grad.shape, grad.dtype, "quotient: gradient"),)
