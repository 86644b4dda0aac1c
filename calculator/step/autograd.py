"""Autograd's rules, symbolically: what a node keeps, in which order nodes run, how gradients meet.

Sources: torch/csrc/autograd/engine.cpp (order of nodes, release of saved variables, validate_outputs),
input_buffer.cpp (accumulation), functions/accumulate_grad.h (stealing).
"""

from __future__ import annotations

import heapq
import sys
from typing import TYPE_CHECKING, Any

from calculator.dimension import elements

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.answer import ComponentName
    from calculator.dimension import Shape
    from calculator.dtype import DType
    from calculator.step.tape import Edge, Frame, Tape, Tensor

    #: A node's rule: from itself and its output's gradient to its inputs' gradients, in the order of its edges.
    Rule = Callable[["Node", Any], Sequence[Tensor | None]]


class Node:
    """A step of the backward pass: its rule, what it saved, where its gradients go, and what has come in."""

    __slots__ = (
        "apply",
        "component",
        "context",
        "edges",
        "frame",
        "incoming",
        "outputs",
        "pending",
        "saved",
        "scope",
        "sequence",
    )

    def __init__(
        self, tape: Tape, apply: Rule, edges: tuple[Edge | None, ...], context: Any = None, outputs: int = 1
    ) -> None:
        self.apply = apply
        self.edges = edges
        self.saved: Sequence[Any] = ()
        self.context = context
        self.frame: Frame | None = None
        self.pending = 0
        self.incoming: list[Tensor | None] | None = None
        self.outputs = outputs
        self.scope = tape.scope
        self.component: ComponentName = tape.component
        self.sequence = tape.sequence = tape.sequence + 1

    def save(self, tensor: Tensor) -> None:
        """Keep a tensor for the backward pass, or hand it to the checkpoint that this node lies in.

        An input's edge is this node's too; a result is held without its own, which leads back here.
        """
        frames = tensor.tape.frames
        if frames:
            self.frame = frames[-1]
            held = self.frame.pack(tensor)
        else:
            own = tensor.edge is not None and tensor.edge not in self.edges
            held = tensor.detach() if own else tensor
        self.saved = [*self.saved, held]


class Mark(Node):
    """A point that a tensor and its gradient pass by: the tensor after it is the one before it."""

    __slots__ = ()


class Leaf(Node):
    """A trained tensor's AccumulateGrad, where its gradient stays.

    `exists` says that the gradient is there already (from an earlier micro-batch): a new one is added to it and freed.
    """

    __slots__ = ("exists", "kept", "name")

    def __init__(self, tape: Tape, name: str, *, exists: bool, component: ComponentName = "gradients") -> None:
        super().__init__(tape, _no_further, ())
        self.exists = exists
        self.name = name
        self.component = component
        self.kept: Tensor | None = None

    def accumulate(self) -> None:
        """Keep a first gradient: itself, or a copy where it is a part of something larger that lies apart."""
        grad = self.incoming[0] if self.incoming else None
        self.incoming = None
        if grad is None or self.exists or grad.storage is None:
            return
        if _is_scattered(grad):
            grad = grad.tape.new(grad.shape, grad.dtype, "gradient, copied")
        self.kept = grad
        grad.rename(f"{self.name}: gradient", self.component)


def _no_further(_: Node, grad: Tensor) -> tuple[()]:  # noqa: ARG001  a leaf accumulates and hands nothing on
    return ()


def _is_scattered(grad: Tensor) -> bool:
    """Whether a gradient is a slice of each of several batches of its storage, and so not laid out as its leaf."""
    if grad.storage is None:
        return False
    whole = grad.tape.rows[grad.storage.row][1]
    return elements(grad.shape) < elements(whole) and len(grad.shape) > 1 and int(grad.shape[0]) > 1


def backward(tape: Tape, out: Tensor, gradient: Tensor | None = None) -> None:
    """Run the backward pass from a scalar, or from any tensor whose gradient the caller gives and holds."""
    if out.edge is None:
        return
    root = out.edge[0]
    _count_dependencies(root)
    given = gradient or tape.new((), out.dtype, "loss: gradient", component="logits_and_loss")
    root.incoming = [None] * root.outputs
    root.incoming[out.edge[1]] = given
    ready = [(-root.sequence, root)]
    while ready:
        node = heapq.heappop(ready)[1]
        tape.scope, tape.component = node.scope, node.component
        _run(node, ready)
    tape.component = "activations"
    del given


def _run(node: Node, ready: list[tuple[int, Node]]) -> None:
    """Apply a node's rule, let go of what it saved, and hand its gradients on."""
    if node.frame is not None:
        node.saved = node.frame.unpack(node.saved)
    incoming, node.incoming = node.incoming or [None], None
    passed = [*node.apply(node, incoming[0] if node.outputs == 1 else incoming)]
    if node.frame is not None:
        node.saved = ()  # what was recomputed is only the rule's own
    given = None
    for index, edge in enumerate(node.edges):
        given = passed[index]
        if edge is not None and given is not None and (given.dtype != edge[3] or given.shape != edge[2]):
            passed[index] = _fitted(given, edge[2], edge[3])
    del given, incoming
    node.saved = ()
    node.frame = None
    _hand_on(passed, node.edges, ready)


def _hand_on(passed: list[Tensor | None], edges: tuple[Edge | None, ...], ready: list[tuple[int, Node]]) -> None:
    """Give each gradient to the node that it belongs to; of those that are ready then, leaves run at once."""
    leaves: list[Leaf] = []
    for index, edge in enumerate(edges):
        if edge is None:
            continue
        target = edge[0]
        if target.incoming is None and target.outputs == 1:
            target.incoming = [passed[index]]
            passed[index] = None
        else:
            _deposit(target, edge[1], passed, index)
        target.pending -= 1
        if not target.pending:
            if isinstance(target, Leaf):
                leaves.append(target)
            else:
                heapq.heappush(ready, (-target.sequence, target))
    for leaf in leaves:
        leaf.accumulate()


def _fitted(grad: Tensor, shape: Shape, dtype: DType) -> Tensor:
    """A gradient summed and cast; leading dimensions are summed even where they are 1 (ATen/ExpandUtils.h, sum_to)."""
    if grad.shape != shape and (len(grad.shape) > len(shape) or elements(grad.shape) != elements(shape)):
        fewer = len(grad.shape) > len(shape)
        grad = grad.tape.new(shape, grad.dtype, "gradient, summed")
        grad.viewed = fewer
    if grad.dtype != dtype:
        grad = grad.tape.new(shape, dtype, "gradient, cast")
    return grad


def _deposit(target: Node, slot: int, passed: list[Tensor | None], index: int) -> None:
    """Move a gradient into a node's buffer; a second one is added in place where the first is nobody else's.

    Tensors are looked at inside their lists only, so that no local name adds to their reference counts.
    """
    if passed[index] is None:
        return
    buffer = target.incoming
    if buffer is None:
        buffer = target.incoming = [None] * target.outputs
    if buffer[slot] is None:
        buffer[slot] = passed[index]
    elif not _own(buffer, slot):
        buffer[slot] = _fresh(buffer[slot])
    passed[index] = None


def _own(tensors: list[Any], index: int) -> bool:
    if tensors[index].viewed:
        return False
    return sys.getrefcount(tensors[index]) == 2 and sys.getrefcount(tensors[index].storage) == 2


def _fresh(like: Any) -> Tensor:
    new: Tensor = like.tape.new(like.shape, like.dtype, "gradient, added")
    return new


def _count_dependencies(root: Node) -> None:
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is not None:
                target = edge[0]
                if not target.pending:
                    stack.append(target)
                target.pending += 1
