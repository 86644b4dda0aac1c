"""Linear equations that methods solve for rotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def solved(left: Tensor, right: Tensor) -> Tensor:
    """Return torch.linalg.solve(left, right, left=False).

    The first matrix, its factors, the pivots and the result are saved.

    Source: derivatives.yaml, _linalg_solve_ex; FunctionsManual.cpp, linalg_solve_backward.
    """
    tape = left.tape
    node = Node(tape, _solved_back, (left.edge, right.edge)) if left.edge or right.edge else None
    out = tape.new(left.shape, left.dtype, "rotation", node)
    factors = tape.new(left.shape, left.dtype, "factors of the first matrix")
    pivots = tape.new(left.shape[:-1], "int32", "pivots")
    if node is not None:
        for tensor in (left, factors, pivots, out):
            node.save(tensor)
    return out


def _solved_back(_: Node, grad: Tensor) -> tuple[Tensor, Tensor]:
    right_grad = grad.tape.new(grad.shape, grad.dtype, "solve: gradient of the second matrix")
    transposed = grad.tape.scratch(grad.shape, grad.dtype, "rotation, negated")
    left_grad = grad.tape.new(grad.shape, grad.dtype, "solve: gradient of the first matrix")
    del transposed
    return left_grad, right_grad
