"""Cumulative sums and triangular systems: the memory that they allocate and save, forward and backward.

Source: tools/autograd/derivatives.yaml and torch/csrc/autograd/FunctionsManual.cpp, cumsum_backward and
linalg_solve_triangular_backward.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def cumsum(x: Tensor, name: str) -> Tensor:
    """Return x.cumsum over a dimension.

    The backward pass sums the gradient from the end: it flips it, sums it, and flips it back.
    """
    node = Node(x.tape, _cumsum_back, (x.edge,)) if x.edge else None
    return x.tape.new(x.shape, x.dtype, name, node)


def _cumsum_back(_: Node, grad: Tensor) -> tuple[Tensor]:
    tape = grad.tape
    temporaries = [tape.new(grad.shape, grad.dtype, f"cumulative sum: {step}") for step in ("flipped", "summed")]
    out = tape.new(grad.shape, grad.dtype, "cumulative sum: gradient")
    del temporaries
    return (out,)


def solve_triangular(system: Tensor, right: Tensor, name: str) -> Tensor:
    """Return torch.linalg.solve_triangular(system, right). The system and the result are saved."""
    node = Node(right.tape, _solve_back, (system.edge, right.edge)) if system.edge or right.edge else None
    out = right.tape.new(right.shape, right.dtype, name, node)
    if node is not None:
        node.save(system)
        node.save(out)
    return out


def _solve_back(node: Node, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
    tape, system = grad.tape, node.saved[0]
    right_grad = tape.new(grad.shape, grad.dtype, "triangular system: gradient of the right side")
    if node.edges[0] is None:
        return None, right_grad
    product = tape.new(system.shape, system.dtype, "triangular system: product")
    negated = tape.new(system.shape, system.dtype, "triangular system: product, negated")
    del product
    system_grad = tape.new(system.shape, system.dtype, "triangular system: gradient")
    del negated
    return system_grad, right_grad if node.edges[1] else None
