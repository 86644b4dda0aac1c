"""Autograd's graph: what each node saves, and where its gradients go.

Source: torch/csrc/autograd/functions/accumulate_grad.h (stealing).
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Any, Protocol

from calculator.architecture.dimension import elements
from calculator.engine.accumulation import Accumulation

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Sequence

    from calculator.common.names import ComponentName
    from calculator.engine.tape import Edge, SavedTensorsHooks, Tape, Tensor

    #: A backward formula. It takes a node and the gradient of its output, and returns the gradients of its inputs, in
    #: the order of the node's edges.
    Rule = Callable[["Node", Any], Sequence[Tensor | None]]


class Release(Protocol):
    """Updates a parameter during the backward pass and frees its gradient."""

    def ready(self, grad: Tensor) -> None:
        """Run when a gradient is ready, before it is accumulated."""

    def accumulated(self, name: str, grad_list: list[Tensor]) -> None:
        """Run when a parameter has its gradient.

        `grad_list` contains the gradient and is the only reference to it.
        """


#: The prefix of the label that marks a ready gradient. The parameter's name follows it.
GRADIENT_OF = "gradient of "
#: The text between a parameter's name and the number of its layer, in the label of a ready gradient.
IN_LAYER = " in layer "


def parameter_of(label: str) -> tuple[str, int | None]:
    """Return the name of the parameter whose gradient a mark is for, and the number of its layer if the mark has it."""
    name, _, number = label.removeprefix(GRADIENT_OF).partition(IN_LAYER)
    return name, int(number) if number else None


class Node:
    """One function of the backward graph, as `torch.autograd.graph.Node`."""

    __slots__ = (
        "apply",
        "component",
        "context",
        "edges",
        "hooks",
        "incoming",
        "saved",
        "scope",
        "sequence_nr",
    )

    def __init__(self, tape: Tape, apply: Rule, edges: tuple[Edge | None, ...], context: Any = None) -> None:
        #: The backward formula.
        self.apply = apply
        #: One per input. None for an input that needs no gradient.
        self.edges = edges
        #: The saved tensors, or what the hooks packed them into.
        self.saved: Any = ()
        #: Any other values that the backward formula needs.
        self.context = context
        #: The checkpoint around the node's operation, once it has saved a tensor.
        self.hooks: SavedTensorsHooks | None = None
        #: The gradient of its output so far. For several outputs, the list of their gradients.
        self.incoming: Any = None
        self.scope, self.component = tape.scope, tape.component
        self.sequence_nr = tape.sequence_nr = tape.sequence_nr + 1

    def save(self, tensor: Tensor) -> None:
        """Save a tensor for the backward pass, or let the innermost checkpoint pack it.

        A saved result is detached: its edge leads back to this node, which would be a reference cycle.
        """
        hooks = tensor.tape.hooks
        if hooks:
            self.hooks = hooks[-1]
            saved = self.hooks.pack(tensor)
        else:
            is_traced = tensor.edge is not None and tensor.edge not in self.edges
            saved = tensor.detach() if is_traced else tensor
        if self.saved:
            self.saved.append(saved)
        else:
            self.saved = [saved]


class NodeWithOutputs(Node):
    """A node with several outputs."""

    __slots__ = ()

    def __init__(
        self, tape: Tape, apply: Rule, edges: tuple[Edge | None, ...], context: Any = None, *, outputs: int
    ) -> None:
        super().__init__(tape, apply, edges, context)
        self.incoming = [None] * outputs


#: Sorts nodes in the order in which they were made.
by_sequence_nr = attrgetter("sequence_nr")


#: Which edge needs each of the saved tensors of a product, in their order. None if every edge needs it.
_FACTORS: dict[Rule, tuple[int | None, ...]] = {}


def saves_factors(*edges: int | None) -> Callable[[Rule], Rule]:
    """Register which edge needs each of the first saved tensors of a backward formula. None if every edge needs it.

    Every edge needs the saved tensors after these.
    """

    def declare(rule: Rule) -> Rule:
        _FACTORS[rule] = edges
        return rule

    return declare


def saved_without(node: Node, missing: Container[Node]) -> Sequence[Any]:
    """Return the tensors that a node would save if no gradient flowed to the missing nodes."""
    saved, tensors = iter(node.saved), []
    for index in _FACTORS.get(node.apply, ()):
        edge = None if index is None else node.edges[index]
        if index is None or edge is not None:
            tensor = next(saved)
            if edge is None or edge[0] not in missing:
                tensors.append(tensor)
    return [*tensors, *saved]


class Mark(Node):
    """A node that passes its gradient on unchanged. It marks a point between layers."""

    __slots__ = ()


class LeafModule:
    """A module whose gradients DeepSpeed's ZeRO stage 3 reduces together, when the module's backward pass ends.

    `names` are the parameter names of the layer, in the order of the model. The parameters of each submodule follow the
    submodule's name.

    Source: deepspeed/runtime/zero/stage3.py, create_reduce_and_remove_grad_hooks.
    """

    __slots__ = ("_names", "_path", "gradients")

    def __init__(self, path: str, names: Sequence[str]) -> None:
        self._path, self._names = f"{path}.", names
        #: The gradients that are not reduced yet, each with the name of its parameter.
        self.gradients: list[tuple[str, Tensor]] = []

    def has(self, name: str) -> bool:
        """Return whether a parameter belongs to the module. That of an adapter after the module does not."""
        return name.startswith(self._path) and self._leaf_index(name) < len(self._names)

    def end(self) -> None:
        """Mark every waiting gradient as ready, and free it."""
        waiting, self.gradients = sorted(self.gradients, key=lambda gradient: self._leaf_index(gradient[0])), []
        while waiting:
            name, grad = waiting.pop(0)
            grad.tape.mark(f"{GRADIENT_OF}{name}", grad)
            del grad

    def _leaf_index(self, name: str) -> int:
        """Return the index of a parameter, or of the submodule that it is in, among the names."""
        own = f"{name}."
        return next((at for at, child in enumerate(self._names) if own.startswith(f"{child}.")), len(self._names))


#: A gradient that is stored until the optimizer steps.
_STORED = Accumulation()


class AccumulateGrad(Node):
    """The node at the end of the graph that accumulates the gradient of a trained tensor."""

    __slots__ = ("accumulation", "copies", "grad", "layer", "name", "pending")

    def __init__(
        self,
        tape: Tape,
        name: str,
        component: ComponentName = "gradients",
        accumulation: Accumulation = _STORED,
        layer: int | None = None,
    ) -> None:
        Node.__init__(self, tape, _no_further, ())  # faster than `super`, for the parameters of a layer
        #: The number of gradients that have not arrived yet.
        self.pending = 0
        #: How the gradient is accumulated.
        self.accumulation = accumulation
        #: Whether the first gradient is copied: its layout differs from the tensor's, or another node refers to it too.
        self.copies = False
        self.name = name
        #: The number of the layer, if the layer has no marks of its own.
        self.layer = layer
        self.component = component
        self.grad: Tensor | None = None

    def accumulate(self) -> None:
        """Store the first gradient without a copy, unless its layout differs from the tensor's.

        A later gradient is added to it.
        """
        grad: Tensor | None = self.incoming
        self.incoming = None
        if grad is None or grad.storage is None:
            return
        adds, in_buckets, marked, release = self.accumulation
        if release is not None:
            release.ready(grad)
        if not adds and (self.copies or _has_other_layout(grad)):
            grad = grad.tape.new(grad.shape, grad.dtype, "gradient, copied")
        if marked:
            leaf = next((module for module in grad.tape.leaves.values() if module.has(self.name)), None)
            if leaf is not None:
                leaf.gradients.append((self.name, grad))
                return
            layer = "" if self.layer is None else f"{IN_LAYER}{self.layer}"
            grad.tape.mark(f"{GRADIENT_OF}{self.name}{layer}", grad)
        if adds or in_buckets:
            return
        grad.rename(f"{self.name}: gradient", self.component)
        if release is None:
            self.grad = grad
            return
        grad_list = [grad]
        del grad
        release.accumulated(self.name, grad_list)


def _no_further(_: Node, grad: Tensor) -> tuple[()]:  # noqa: ARG001  the end of the graph returns nothing
    return ()


def _has_other_layout(grad: Tensor) -> bool:
    """Return whether a gradient is a transposed view of its storage, or a view of a slice in each batch of several.

    A slice that contains whole batches is contiguous.
    """
    if grad.storage is None:
        return False
    whole = grad.tape.rows[grad.storage.row][1]
    if whole == grad.shape:
        return False
    if len(whole) == 2 and whole == grad.shape[::-1]:
        return True
    if elements(grad.shape) >= elements(whole) or len(grad.shape) < 2 or grad.shape[0] == 1:
        return False
    return whole[1:] != grad.shape[1:]
