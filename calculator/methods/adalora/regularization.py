"""The loss of singular vectors that are not orthogonal (peft.tuners.adalora.model.AdaLoraModel.forward).

It is computed after the model's own loss, so its backward pass comes first. The gradients of all factors are alive
while the model's backward pass runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place
from calculator.engine import operations as ops
from calculator.engine.autocast import cast_to
from calculator.engine.autograd import Node
from calculator.methods.adalora import layer

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor
    from calculator.layers.context import Context


def add_to(context: Context, loss: Tensor) -> Tensor:
    """Add the mean distance of all factors from orthogonal ones to the loss, in place."""
    context.set_scope("orthogonality: ")
    total: Tensor | None = None
    for name, factor in context.parameters.trained:
        if name.endswith((f".{layer.A}", f".{layer.B}")):
            product = _with_itself(factor)
            identity = factor.tape.new(product.shape, product.dtype, "identity matrix")
            distance = _norm(_difference(product, identity))
            total = ops.shift(distance, "sum of the distances") if total is None else in_place.add_(total, distance)
    if total is None:
        return loss
    total = ops.scale(total, "mean of the distances")
    return in_place.add_(loss, ops.scale(total, "times orth_reg_weight"))


def _difference(product: Tensor, identity: Tensor) -> Tensor:
    difference = ops.subtract(product, identity, "product - identity matrix")
    return difference if difference.tape.autocast is None else cast_to(difference, "float32", "difference")


def _with_itself(factor: Tensor) -> Tensor:
    """Return A·Aᵀ or Bᵀ·B: (r, r)."""
    autocast = factor.tape.autocast
    transposed = ops.view(factor, factor.shape[::-1])
    if autocast is not None:
        factor, transposed = autocast.cast_factors(factor, transposed, ("factor", "factor, transposed"))
    node = Node(factor.tape, _with_itself_back, (factor.edge, transposed.edge)) if factor.edge else None
    if node is not None:
        node.save(factor)
        node.save(transposed)
    r = min(factor.shape)
    return factor.tape.new((r, r), factor.dtype, "product with itself", node)


def _with_itself_back(node: Node, grad: Tensor) -> list[Tensor]:
    return [grad.tape.new(edge[2], grad.dtype, "factor: gradient") for edge in node.edges if edge is not None]


def _norm(x: Tensor) -> Tensor:
    """Return torch.norm(x, p="fro"). x and the norm are saved."""
    node = Node(x.tape, _norm_back, (x.edge,)) if x.edge else None
    out = x.tape.new((), x.dtype, "norm", node)
    if node is not None:
        node.save(x)
        node.save(out)
    return out


def _norm_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return grad · (x / norm), where the norm is not 0."""
    tape, (x, _) = grad.tape, node.saved
    direction = tape.scratch(x.shape, x.dtype, "x / norm")
    zero = tape.scratch((), "bool", "norm is 0")
    out = tape.new(x.shape, x.dtype, "norm: gradient")
    del direction, zero
    return (out,)
