"""Convolutions over positions: what they allocate, what they save, and what their backward pass allocates.

Source: tools/autograd/derivatives.yaml, convolution. What cuDNN needs besides, PyTorch allocates as workspace; it is
not modelled.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, name: str) -> Tensor:
    """Each channel convolved with its own filter: (batch, channels, positions) to one with `padding` on both sides.

    `weight`: (channels, 1, width). Autocast runs it in the lower precision.
    """
    autocast, given = x.tape.autocast, (x, weight)  # a call's arguments stay until it returns
    if autocast is not None:
        bias = None if bias is None else autocast.cached_cast(bias, "bias")
        x, weight = autocast.cast_factors(*given, ("input", "weight"))
    edges = (x.edge, weight.edge, None if bias is None else bias.edge)
    node = Node(x.tape, _conv1d_back, edges) if any(edges) else None
    if node is not None:
        node.save(x)
        node.save(weight)
    positions = x.shape[2] + 2 * padding - weight.shape[2] + 1
    return x.tape.new((*x.shape[:2], positions), x.dtype, name, node)


def _conv1d_back(node: Node, grad: Tensor) -> list[Tensor | None]:
    grads = [grad.tape.new(edge[2], grad.dtype, "convolution: gradient") if edge else None for edge in node.edges]
    if grads[1] is not None:
        grads[1].viewed = True  # a view of a tensor in another shape
    return grads
