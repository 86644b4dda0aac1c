"""Re-entrant gradient checkpointing: a no-grad forward pass, and a backward pass inside the backward pass.

Source: torch/utils/checkpoint.py, CheckpointFunction.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from calculator.engine import autocast
from calculator.engine.autograd import AccumulateGrad, Mark, Node
from calculator.engine.backward import backward
from calculator.engine.offloading import OffloadedActivations
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class _NoGrad:
    """Saves nothing, as under torch.no_grad."""

    __slots__ = ()
    follows_nodes = False

    def pack(self, tensor: Tensor) -> None:
        """Drop a tensor that a node saves."""

    def unpack(self, packed: Sequence[Any]) -> Sequence[Any]:
        """Return the packed object. No node of this forward pass runs backward."""
        return packed

    def after(self, node: Node) -> None:
        """Do nothing."""


def checkpoint_reentrant(
    function: Callable[[Tensor], Tensor],
    x: Tensor,
    captured: object,
    arguments: list[Any] | None = None,
    *,
    unused: Callable[[], Tensor | None] = lambda: None,
    offloads: bool = False,
) -> Tensor:
    """Run a function under no_grad and save only its input.

    Tensors that the function captures stay alive as long as the graph. `arguments`: a list that the function reads
    further inputs from. They are saved like the input, and freed with it. `unused` returns another output of the last
    run, which nothing reads: autograd makes zeros for its gradient. `offloads`: whether the input is saved in
    host memory. It returns to a buffer that always exists.
    """
    tape = x.tape
    tape.hooks.append(_NoGrad())
    outer, tape.grad_enabled = tape.grad_enabled, False
    try:
        out = function(x.detach())
    finally:
        tape.grad_enabled = outer
        tape.hooks.pop()
    if x.edge is None:
        return out.detach()
    dtype = tape.autocast.dtype if tape.autocast is not None else None
    other = unused()
    zeros = None if other is None else (other.shape, other.dtype)
    node = Node(tape, _recompute, (x.edge,), (function, dtype, captured, arguments, unused, zeros))
    node.save(Tensor(tape, None, x.shape, x.dtype, None) if offloads else x)
    return Tensor(tape, out.storage, out.shape, out.dtype, node)


def _recompute(node: Node, grad: Tensor) -> tuple[Tensor | None]:
    """Run the function again with a graph, then run that graph backward.

    Its output and the output's gradient stay alive.
    """
    function, dtype, _, arguments, unused, like = node.context
    (x,) = node.saved
    zeros = None if like is None else x.tape.new(*like, "zeros for an unused output")
    leaf = AccumulateGrad(x.tape, "input of a recomputed layer", "activations")
    hooks = x.tape.hooks[-1] if x.tape.hooks else None
    if isinstance(hooks, OffloadedActivations):
        leaf.context = x.detach()
    with autocast.region(x.tape, dtype):
        out = function(Tensor(x.tape, x.storage, x.shape, x.dtype, leaf))
    other = unused()
    if zeros is not None and other is not None and other.edge is not None:
        _begin_with(other, zeros)
    with hooks.graph_inside() if isinstance(hooks, OffloadedActivations) else nullcontext():
        backward(x.tape, out, grad)
    if isinstance(hooks, OffloadedActivations) and hooks.keeps(leaf):
        _copy_gradient(node)
    if arguments is not None:
        arguments.clear()
    return (leaf.grad,)


def _copy_gradient(node: Node) -> None:
    """Let the leaf before a checkpoint's node copy its gradient, to which another tensor refers too."""
    edge = node.edges[0]
    while edge is not None and isinstance(edge[0], Mark):
        edge = edge[0].edges[0]
    if edge is not None and isinstance(edge[0], AccumulateGrad):
        edge[0].copies = True


def _begin_with(x: Tensor, gradient: Tensor) -> None:
    """Give a tensor's node a gradient, to which others are added."""
    assert x.edge is not None
    node, slot = x.edge[:2]
    if isinstance(node.incoming, list):
        node.incoming[slot] = gradient
    else:
        node.incoming = gradient
