"""Convolutions over positions: the memory that they allocate and save, and that their backward pass allocates.

Source: tools/autograd/derivatives.yaml, convolution. cuDNN also needs a workspace, which is not modeled.
`packaged_conv1d` models the function of the package causal-conv1d.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.autograd import Node

if TYPE_CHECKING:
    from calculator.engine.tape import Tensor


def conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int, name: str) -> Tensor:
    """Convolve each channel with its own filter: (batch, channels, positions), with `padding` on both sides.

    `weight`: (channels, 1, width). Autocast runs the convolution in the lower precision.
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


def packaged_conv1d(x: Tensor, weight: Tensor, bias: Tensor | None, name: str) -> Tensor:
    """Run the convolution and activation of causal-conv1d, which keep the number of positions.

    Autocast does not change it.

    Source: Dao-AILab/causal-conv1d 1.6.1, causal_conv1d/causal_conv1d_interface.py, CausalConv1dFn, and
    cpp_functions.py, causal_conv1d_bwd_function.
    """
    edges = (x.edge, weight.edge, None if bias is None else bias.edge)
    node = Node(x.tape, _packaged_back, edges) if any(edges) else None
    if node is not None:
        for tensor in (x, weight, *(() if bias is None else (bias,))):
            node.save(tensor)
    return x.tape.new(x.shape, x.dtype, name, node)


def _packaged_back(node: Node, _: Tensor) -> list[Tensor | None]:
    """Compute every gradient. The gradients of weight and bias are in float32 first, then in their own dtype."""
    x, *owned = node.saved
    tape = x.tape
    grads: list[Tensor | None] = [tape.new(x.shape, x.dtype, "convolution: gradient")]
    grads += [tape.new(tensor.shape, "float32", "convolution: gradient in float32") for tensor in owned]
    for number, tensor in enumerate(owned, 1):
        if tensor.dtype != "float32":
            grads[number] = tape.new(tensor.shape, tensor.dtype, "convolution: gradient")
    grads += [None] * (len(node.edges) - len(grads))
    return [grad if edge else None for grad, edge in zip(grads, node.edges, strict=True)]
