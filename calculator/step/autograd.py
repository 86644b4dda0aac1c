"""Autograd's rules, symbolically: what a node keeps, in which order nodes run, how gradients meet.

Sources: torch/csrc/autograd/engine.cpp (order of nodes, release of saved variables, validate_outputs),
input_buffer.cpp (accumulation), functions/accumulate_grad.h (stealing).
"""

from __future__ import annotations

import heapq
import sys
from typing import TYPE_CHECKING, Any

from calculator.dimension import elements
from calculator.step.tape import Tape, Tensor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.answer import ComponentName
    from calculator.step.tape import Frame

    #: A node's rule: from itself and its output's gradient to its inputs' gradients, in the order of its edges.
    Rule = Callable[["Node", Any], Sequence[Tensor | None]]


class Node:
    """A step of the backward pass: its rule, what it saved, and the nodes that its gradients go to."""

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
        self, tape: Tape, apply: Rule, inputs: Sequence[Tensor | None], context: Any = None, outputs: int = 1
    ) -> None:
        self.apply = apply
        self.edges = [(t.node, t.index, t.shape, t.dtype) if t is not None and t.node else None for t in inputs]
        self.saved: list[Any] = []
        self.context = context
        self.frame: Frame | None = None
        self.pending = 0
        self.incoming: list[Tensor | None] = [None] * outputs
        self.outputs = outputs
        self.scope = tape.scope
        self.component: ComponentName = tape.component
        tape.sequence += 1
        self.sequence = tape.sequence

    def save(self, tensor: Tensor) -> None:
        """Keep a tensor for the backward pass, or hand it to the checkpoint that this node lies in."""
        if tensor.tape.frames:
            self.frame = tensor.tape.frames[-1]
            self.saved.append(self.frame.pack(tensor))
        else:
            self.saved.append(Tensor(tensor.tape, tensor.storage, tensor.shape, tensor.dtype, None))


class Mark(Node):
    """A point that a tensor and its gradient pass by: the tensor after it is the one before it."""

    __slots__ = ()


class Leaf(Node):
    """A trained tensor's AccumulateGrad, where its gradient stays.

    `exists` says that the gradient is there already (from an earlier micro-batch): a new one is added to it and freed.
    """

    __slots__ = ("exists", "kept", "name")

    def __init__(self, tape: Tape, name: str, *, exists: bool, component: ComponentName = "gradients") -> None:
        super().__init__(tape, _accumulate, ())
        self.sequence = sys.maxsize
        self.exists = exists
        self.name = name
        self.component = component
        self.kept: Tensor | None = None


def _accumulate(node: Node, grad: Tensor) -> tuple[()]:
    """Keep a first gradient: itself, or a copy where it is a part of something larger that lies apart."""
    if not isinstance(node, Leaf) or node.exists or grad.storage is None:
        return ()
    if _is_scattered(grad):
        grad = grad.tape.new(grad.shape, grad.dtype, "gradient, copied")
    node.kept = grad
    if grad.storage is not None:
        row = grad.storage.row
        _, shape, dtype, _, size = grad.tape.rows[row]
        grad.tape.rows[row] = (f"{node.name}: gradient", shape, dtype, node.component, size)
    return ()


def _is_scattered(grad: Tensor) -> bool:
    """Whether a gradient is a slice of each of several batches of its storage, and so not laid out as its leaf."""
    if grad.storage is None:
        return False
    whole = grad.tape.rows[grad.storage.row][1]
    return elements(grad.shape) < elements(whole) and len(grad.shape) > 1 and int(grad.shape[0]) > 1


def backward(tape: Tape, out: Tensor, gradient: Tensor | None = None) -> None:
    """Run the backward pass from a scalar, or from any tensor whose gradient the caller gives and holds."""
    root = out.node
    if root is None:
        return
    _count_dependencies(root)
    given = gradient or tape.new((), out.dtype, "loss: gradient", component="logits_and_loss")
    root.incoming[out.index] = given
    ready = [(-root.sequence, 0, root)]
    while ready:
        node = heapq.heappop(ready)[2]
        tape.scope, tape.component = node.scope, node.component
        _run(node, ready)
    tape.component = "activations"
    del given


def _run(node: Node, ready: list[tuple[int, int, Node]]) -> None:
    if node.frame is not None:
        node.saved = node.frame.unpack(node.saved)
    incoming, node.incoming = node.incoming, [None] * node.outputs
    passed = list(node.apply(node, incoming[0] if node.outputs == 1 else incoming))
    if node.frame is not None:
        node.saved = []  # what was recomputed is only the rule's own
    for index, edge in enumerate(node.edges):
        given = passed[index]
        if edge is not None and given is not None:
            passed[index] = _fitted(given, edge[2], edge[3])
        del given
    del incoming
    node.saved = []
    node.frame = None
    for index, edge in enumerate(node.edges):
        if edge is not None:
            target = edge[0]
            _deposit(target, edge[1], passed, index)
            target.pending -= 1
            if target.pending == 0:
                heapq.heappush(ready, (-target.sequence, id(target), target))


def _fitted(grad: Tensor, shape: Any, dtype: Any) -> Tensor:
    """A gradient brought to its input's shape and dtype, as the engine's validate_outputs does."""
    if grad.shape != shape and elements(grad.shape) != elements(shape):
        grad = grad.tape.new(shape, grad.dtype, "gradient, summed")
    if grad.dtype != dtype:
        grad = grad.tape.new(shape, dtype, "gradient, cast")
    return grad


def _deposit(target: Node, slot: int, passed: list[Tensor | None], index: int) -> None:
    """Move a gradient into a node's buffer; a second one is added in place where the first is nobody else's.

    A tied weight's first gradient comes from a product as a transposed view, whose base counts as another owner.
    Tensors are looked at inside their lists only, so that no local name adds to their reference counts.
    """
    buffer = target.incoming
    if passed[index] is None:
        return
    if buffer[slot] is None:
        buffer[slot] = passed[index]
    elif isinstance(target, Leaf) or not _own(buffer, slot):
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
    stack, seen = [root], {id(root)}
    while stack:
        for edge in stack.pop().edges:
            if edge is None:
                continue
            target = edge[0]
            target.pending += 1
            if id(target) not in seen:
                seen.add(id(target))
                stack.append(target)
