"""A linear layer with a DeLoRA update (peft.tuners.delora.layer.DeloraLinear)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine import in_place, indexing, products
from calculator.engine import operations as ops
from calculator.engine.autocast import cast_to
from calculator.engine.autograd import Node
from calculator.engine.tape import Tensor
from calculator.methods.targeted.adapted_linear import dropped

if TYPE_CHECKING:
    from calculator.layers.bound_module import BoundModule

#: The names of the parameters, and of the buffer, within a module.
A, B, LAMBDA, NORM = "delora_A", "delora_B", "delora_lambda", "delora_w_norm"


def forward(bound: BoundModule, x: Tensor, dropout: float) -> Tensor:
    """Return the output of the frozen module plus a scaled low-rank update."""
    dtype = x.dtype
    base = bound.base(x)
    total = x.tape.new(base.shape, base.dtype, "zeros")
    x = dropped(x, dropout)
    update, local_variables = _update(bound, x)
    total = _add_to(total, update)
    output = ops.cast(ops.add(base, total, "result + update"), dtype, "output")
    del base, local_variables
    return output


def _add_to(zeros: Tensor, update: Tensor) -> Tensor:
    """Add the update in place to zeros, in their dtype."""
    if zeros.dtype == update.dtype:
        return in_place.add_(zeros, update)
    node = Node(zeros.tape, _second, (None, update.edge)) if update.edge else None
    return Tensor(zeros.tape, zeros.storage, zeros.shape, zeros.dtype, node)


def _second(_: Node, grad: Tensor) -> tuple[None, Tensor]:
    return None, grad


def _update(bound: BoundModule, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the update, and the tensors that PEFT's local variables refer to until the output is computed."""
    a, b = bound.added[A], bound.added[B]
    h = _project_down(x, bound.added[NORM], a)
    norm_of_a = indexing.clamp(_norm(a, 1), "A's norms, clamped", two_bounds=False)
    norm_of_b = indexing.clamp(_norm(b, 0), "B's norms, clamped", two_bounds=False)
    strength = ops.scale(bound.added[LAMBDA], "λ / r")
    scaling = _divided(strength, ops.mul(norm_of_a, norm_of_b, "product of the norms"))
    h = ops.mul(h, scaling, "A·x, scaled")
    return products.matmul(h, b, None, b.shape[0], "update"), (norm_of_a, norm_of_b, scaling)


def _project_down(x: Tensor, norm: Tensor, a: Tensor) -> Tensor:
    return products.matmul(ops.mul(x, norm, "input · norms of the weight"), a, None, a.shape[0], "A·x")


def _norm(x: Tensor, dim: int) -> Tensor:
    """Return x.norm(dim), in float32 under autocast. x and the result are saved."""
    x = x if x.tape.autocast is None else cast_to(x, "float32", "factor")
    node = Node(x.tape, _norm_back, (x.edge,)) if x.edge else None
    out = x.tape.new((x.shape[1 - dim],), x.dtype, "norms", node)
    if node is not None:
        node.save(x)
        node.save(out)
    return out


def _norm_back(node: Node, grad: Tensor) -> tuple[Tensor]:
    """Return grad · (x / norm), with 0 where the norm is 0 (torch/csrc/autograd/FunctionsManual.cpp, norm_backward)."""
    tape, (x, norm) = grad.tape, node.saved
    direction = tape.scratch(x.shape, x.dtype, "x / norm")
    zero = tape.scratch(norm.shape, "bool", "norm = 0")
    del zero
    out = tape.new(x.shape, x.dtype, "norm: gradient")
    del direction
    return (out,)


def _divided(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, for a of one element."""
    node = Node(a.tape, _divided_back, (a.edge, b.edge)) if a.edge else None
    if node is not None:
        node.save(a)
        node.save(b)
    return a.tape.new(b.shape, b.dtype, "scaling", node)


def _divided_back(node: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    tape, (_, b) = grad.tape, node.saved
    dividend_grad = tape.new(b.shape, b.dtype, "division: gradient")
    temporaries = [tape.scratch(b.shape, b.dtype, "division: temporary") for _ in range(3)]
    divisor_grad = tape.new(b.shape, b.dtype, "division: gradient of the divisor")
    del temporaries
    return dividend_grad, divisor_grad
