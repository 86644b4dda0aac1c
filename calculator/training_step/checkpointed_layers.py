"""Checkpointed layers of a trained pass that are recorded again. Layers that are equal have the same events.

Of the layers of a class, the first one and the last one are interpreted. The events of those between them follow: in
the forward pass from the first one, which runs before them, and in the backward pass from the last one. The first one
is interpreted in the backward pass too, because it frees what all layers refer to, such as position tables.

The forward pass of such a layer leaves nothing but its output. Its backward pass frees its input, and the gradient of
its output unless it passes that on. It leaves the gradients of its input and of its parameters.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections import Counter
from operator import invert
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.engine.autograd import AccumulateGrad, Mark, Node
from calculator.engine.tape import Storage, Tensor
from calculator.training_step.recorded_layers import record_again, recorded, state_of

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from calculator.engine.tape import Allocation, Tape
    from calculator.layers.context import Context
    from calculator.training_step.recorded_layers import RecordedLayer

#: The references to the storage of a tensor that nothing else refers to: the tensor's, and the argument of
#: `getrefcount`.
_SOLE = 2

#: The layers of a class that are interpreted: the first one and the last one.
_INTERPRETED = 2


class LayersDifferError(Exception):
    """A layer may differ from the one whose events were recorded for it."""


class _Gradient(NamedTuple):
    """A gradient: its row, and what its tensor is like."""

    row: int
    like: tuple[Any, ...]

    @property
    def is_plain(self) -> bool:
        """Whether it is a tensor of no subclass."""
        return self.like[-1] is Tensor

    def as_tensor(self, tape: Tape, storage: Storage) -> Tensor:
        """Return a gradient like it with another storage."""
        shape, dtype, merged, viewed, *_ = self.like
        grad = Tensor(tape, storage, shape, dtype, None)
        grad.merged, grad.viewed = merged, viewed
        return grad


class _Backward(NamedTuple):
    """A backward pass.

    Attributes:
        first: The number of its first row.
        rows: Its rows.
        events: Its events.
        input_row: The row of the layer's input.
        received: The gradient of the output.
        frees: The rows from before it that it frees.
        of_input: The gradient of the input.
        of_leaves: The gradient of each trained parameter.
    """

    first: int
    rows: Sequence[Allocation]
    events: Sequence[int]
    input_row: int
    received: _Gradient
    frees: Sequence[int]
    input_grad: _Gradient
    leaf_grads: Sequence[_Gradient | None]

    def record_again(self, grad: Tensor, x: Tensor, leaves: Sequence[AccumulateGrad]) -> Tensor:
        """Record it again for the gradient of another layer's output, and that layer's input and parameters."""
        tape, ahead = grad.tape, len(grad.tape.rows) - self.first
        before = {self.received.row: _storage(grad), self.input_row: _storage(x)}
        numbers = {~row: ~storage.row for row, storage in before.items()}
        tape.rows += self.rows
        tape.events += [event + ahead if event >= 0 else numbers.get(event, event - ahead) for event in self.events]
        for row in self.frees:
            before[row].events = []  # the free is recorded
        left = {gradient.row for gradient in (self.input_grad, *self.leaf_grads) if gradient is not None}
        storages = {row: before[row] if row in before else Storage.from_row(row + ahead, tape.events) for row in left}
        for leaf, own in zip(leaves, self.leaf_grads, strict=True):
            leaf.grad = None if own is None else own.as_tensor(tape, storages[own.row])
        return self.input_grad.as_tensor(tape, storages[self.input_grad.row])


class CheckpointedLayers:
    """The layers of a pass by class, and by the attributes of their inputs that their operations depend on."""

    __slots__ = ("_alike", "_last")

    def __init__(self, context: Context) -> None:
        #: The last layer of each class of which some layers are not interpreted.
        self._last = _last_layers(context)
        self._alike: dict[Hashable, EqualLayers] = {}

    @classmethod
    def from_context(cls, context: Context) -> CheckpointedLayers | None:
        """Return the layers of a checkpointed pass, or None if each is interpreted.

        That is so if there are few, or if they depend on more than their inputs and what all of them receive. Liger's
        final norm returns a gradient to the last layer that is a view, to which nothing is added in place. Gradients
        that are marked when they are ready are marked with the number of their layer.
        """
        tape, training = context.tape, context.training
        if not (context.records_layers_again and tape.grad_enabled):
            return None
        if training.use_liger_kernel or context.parameters.accumulation.marked:
            return None
        others = context.cache, context.passed, context.encoder_states, context.layer_loop, context.router_logits
        if any(other is not None for other in others) or context.position_biases or context.images or context.past:
            return None
        lists_calls = tape.calls_modules or tape.added is not None
        couples = context.method.couples_layers or context.model.runs_several_times or tape.hooks or lists_calls
        if couples or tape.autocast is not None or len(context.repetition.numbers) <= _INTERPRETED:
            return None
        return cls(context)

    def equal_to(self, context: Context, number: int, x: Tensor) -> EqualLayers | None:
        """Return the layers that are equal to a layer, or None if all of them are interpreted."""
        own = _class(context, number)
        if own not in self._last:
            return None
        key = own, x.__class__, x.dtype, x.merged, x.edge is None
        if key not in self._alike:
            self._alike[key] = EqualLayers(self._last[own])
        return self._alike[key]


def _last_layers(context: Context) -> dict[Hashable, int]:
    """Return the last layer of each class of layers that run, unless all layers of the class are interpreted."""
    numbers = context.repetition.numbers
    classes = [_class(context, number) for number in numbers]
    counts = Counter(classes)
    return {own: number for own, number in zip(classes, numbers, strict=True) if counts[own] > _INTERPRETED}


def _class(context: Context, number: int) -> Hashable:
    """Return the class of a layer.

    Layers of different attention types are of different classes. The first layer of a type is the last one that refers
    to the type's mask and position tables, so that it is interpreted.
    """
    return context.classes[number], context.layers[number].kind.attention


class EqualLayers:
    """The layers of a class: the forward pass of the first one, and the backward pass of the last one."""

    __slots__ = ("_backward", "_forward", "_input_row", "_is_begun", "_last", "_received", "_start", "_trained")

    def __init__(self, last: int) -> None:
        #: The number of the last layer.
        self._last = last
        self._is_begun = False
        #: The forward pass. None if it cannot be recorded again.
        self._forward: RecordedLayer | None = None
        self._backward: _Backward | None = None
        #: The trained parameters of the layer that was interpreted last.
        self._trained: Sequence[AccumulateGrad] = ()
        self._input_row, self._received, self._start = -1, _Gradient(-1, ()), (0, 0, 0, 0)

    def is_known(self, number: int) -> bool:
        """Return whether the events of a layer follow from those of others."""
        return self._forward is not None and number != self._last

    def record_again(self, context: Context, x: Tensor) -> Tensor:
        """Record the forward pass again, with a node that records the backward pass again. Return the output."""
        assert self._forward is not None
        leaves = [context.parameters.leaf(leaf.name) for leaf in self._trained]
        out = record_again(context, self._forward)
        out.edge = Node(context.tape, self._backward_again, (x.edge,), (x, leaves)), 0, out.shape, out.dtype
        return out

    def run(self, context: Context, x: Tensor, run: Callable[[Tensor], Tensor], first_leaf: int) -> Tensor:
        """Interpret a layer, and record what layers like it follow from.

        `first_leaf` is the number of AccumulateGrad nodes before those of its parameters.
        """
        is_first, self._is_begun = not self._is_begun, True
        state = state_of(context)
        out = run(x if is_first else _marked(x, self._end))
        self._trained = context.parameters.leaves[first_leaf:]
        if not is_first:
            self._input_row = _storage(x).row
            return _marked(out, self._begin)
        if x.edge is not None and x.storage is not None and out.edge is not None:
            self._forward = recorded(context, state, out, has_graph=True)
        return out

    def _begin(self, _: Node, grad: Tensor) -> tuple[Tensor]:
        tape = grad.tape
        self._start = len(tape.rows), len(tape.events), len(tape.marks), len(tape.loops)
        self._received = _gradient(grad)
        return (grad,)

    def _end(self, _: Node, grad: Tensor) -> tuple[Tensor]:
        """Record the backward pass, unless it frees or leaves a tensor that a known one may not."""
        tape, received, (row, at, *others) = grad.tape, self._received, self._start
        events, input_grad = tape.events[at:], _gradient(grad)
        leaf_grads = [None if leaf.grad is None else _gradient(leaf.grad) for leaf in self._trained]
        every = [gradient for gradient in (received, input_grad, *leaf_grads) if gradient is not None]
        # In order, these are the frees of its own rows, those of earlier rows, and the allocations.
        ordered = sorted(events)
        own, earlier = bisect_left(ordered, -row), bisect_left(ordered, 0)
        frees = [*map(invert, ordered[own:earlier])]
        left = {*ordered[earlier:], received.row}.difference(map(invert, ordered[:earlier]))
        is_closed = self._input_row in frees and {self._input_row, received.row}.issuperset(frees)
        is_closed = (
            is_closed
            and left == {gradient.row for gradient in every[1:]}
            and all(gradient.is_plain for gradient in every)
        )
        if is_closed and [len(tape.marks), len(tape.loops)] == others:
            self._backward = _Backward(
                row, tape.rows[row:], events, self._input_row, received, frees, input_grad, leaf_grads
            )
        return (grad,)

    def _backward_again(self, node: Node, grad: Tensor) -> tuple[Tensor]:
        (x, leaves), node.context = node.context, None
        known = self._backward
        if known is None or known.received.like != _gradient(grad).like or sys.getrefcount(x.storage) != _SOLE:
            raise LayersDifferError
        return (known.record_again(grad, x, leaves),)


def _marked(x: Tensor, call: Callable[[Node, Tensor], tuple[Tensor]]) -> Tensor:
    """Return a tensor that calls a function when its gradient is complete."""
    if x.edge is None:
        return x
    out = Tensor(x.tape, x.storage, x.shape, x.dtype, Mark(x.tape, call, (x.edge,)))
    out.merged = x.merged
    return out


def _storage(x: Tensor) -> Storage:
    assert x.storage is not None, "neither a layer's input nor a gradient is a parameter"
    return x.storage


def _gradient(grad: Tensor) -> _Gradient:
    references = sys.getrefcount(grad.storage)
    return _Gradient(_storage(grad).row, (grad.shape, grad.dtype, grad.merged, grad.viewed, references, grad.__class__))
