"""Autograd's graph, symbolically: what a node keeps, and where its gradients go.

Source: torch/csrc/autograd/functions/accumulate_grad.h (stealing).
"""

from __future__ import annotations

from itertools import compress
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from calculator.architecture.dimension import elements

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from calculator.common.names import ComponentName
    from calculator.engine.tape import Edge, Frame, Tape, Tensor

    #: A node's rule: from itself and its output's gradient to its inputs' gradients, in the order of its edges.
    Rule = Callable[["Node", Any], Sequence[Tensor | None]]


class Node:
    """A step of the backward pass: its rule, what it saved, where its gradients go, and what has come in.

    `incoming` is the gradient of its output so far; of several outputs, the list of theirs. `pending` is how many more
    are to come.
    """

    __slots__ = (
        "apply",
        "component",
        "context",
        "edges",
        "frame",
        "incoming",
        "pending",
        "saved",
        "scope",
        "sequence_nr",
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
        self.incoming: Any = None if outputs == 1 else [None] * outputs
        self.scope = tape.scope
        self.component: ComponentName = tape.component
        self.sequence_nr = tape.sequence_nr = tape.sequence_nr + 1

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


#: When a node was made, among all of its tape.
by_sequence_nr = attrgetter("sequence_nr")


#: Rules of two factors, each saved for the other's gradient alone: for which edge the first is saved, and the second.
_FACTORS: dict[Rule, tuple[int, int]] = {}


def saves_factors(first: int, second: int) -> Callable[[Rule], Rule]:
    """Say of a rule's nodes for which of their edges they save the first tensor, and the second; others are for all."""

    def noted(rule: Rule) -> Rule:
        _FACTORS[rule] = (first, second)
        return rule

    return noted


def saved_without(node: Node, missing: Container[Node]) -> Sequence[Any]:
    """What a node would save if no gradient flowed to some others."""
    order = [place for place in _FACTORS.get(node.apply, ()) if node.edges[place] is not None]
    wanted = [edge is not None and edge[0] not in missing for edge in map(node.edges.__getitem__, order)]
    return [*compress(node.saved, wanted), *node.saved[len(order) :]]


class Mark(Node):
    """A point that a tensor and its gradient pass by: the tensor after it is the one before it."""

    __slots__ = ()


class AccumulateGrad(Node):
    """A trained tensor's AccumulateGrad, where its gradient stays.

    `exists` says that the gradient is there already (from an earlier micro-batch): a new one is added to it and freed.
    """

    __slots__ = ("exists", "kept", "name")

    def __init__(self, tape: Tape, name: str, component: ComponentName = "gradients") -> None:
        super().__init__(tape, _no_further, ())
        self.exists = False
        self.name = name
        self.component = component
        self.kept: Tensor | None = None

    def accumulate(self) -> None:
        """Keep a first gradient: itself, or a copy where it is a part of something larger that lies apart."""
        grad: Tensor | None = self.incoming
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
    """Whether a gradient is not laid out as its leaf: a slice of each of several batches of its storage, or turned."""
    if grad.storage is None:
        return False
    whole = grad.tape.rows[grad.storage.row][1]
    if whole == grad.shape:
        return False
    if len(whole) == 2 and whole == grad.shape[::-1]:
        return True
    return elements(grad.shape) < elements(whole) and len(grad.shape) > 1 and grad.shape[0] > 1
