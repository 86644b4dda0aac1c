"""The backward pass of a checkpointed first layer that is not interpreted, derived from the interpreted layer.

The input of the first layer needs no gradient. The input of the interpreted layer needs one. Both layers recompute the
same operations. They run the same nodes up to the first node that the first layer lacks, or that computes fewer
gradients there. Up to that node, the first layer only lacks recomputed tensors that none of its own nodes saves. After
that node, the live bytes of the interpreted layer without these tensors are an upper bound. So the peak of the first
layer is known if it is before that node.
"""

from __future__ import annotations

from bisect import bisect_right
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

from calculator.engine.autograd import Mark, by_sequence_nr, saved_without
from calculator.engine.checkpoint import RepeatedCheckpoint
from calculator.engine.tape import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.autograd import Node, Rule
    from calculator.engine.lifetimes import Lifetimes
    from calculator.engine.recording import Recording
    from calculator.engine.tape import Tape


class FirstBackward(NamedTuple):
    """A first layer's backward pass, as events of the interpreted one.

    Attributes:
        start: The position at which it begins.
        differs: The position at which it runs other nodes.
        unsaved: The rows that it does not save, each with the position at which it frees them.
    """

    start: int
    differs: int
    unsaved: tuple[tuple[int, int], ...]

    def peak(self, recording: Recording) -> int | None:
        """Return the peak bytes from its beginning to the end of the step, or None if they are not certain."""
        start, differs, copies = self.start, self.differs + 1 - self.start, recording.copies
        changes = [*recording.changes[start : copies.marks["end"]]]
        for row, freed in self.unsaved:
            size, end = recording.row_bytes(row), copies.lifetimes.ends[row] - start
            changes[freed - start] -= size
            if end < len(changes):
                changes[end] += size
        alive = [*accumulate(changes, initial=recording.curve.before_last_copy(recording.windows[1]))]
        most = max(alive[:differs])
        return most if max(alive[differs:], default=0) <= most else None


class LayerInPlace:
    """The layer that is interpreted in place of a checkpointed first layer whose input needs no gradient."""

    __slots__ = ("_begins", "_differs", "_end", "_unsaved", "entry")

    def __init__(self, x: Tensor, end: str) -> None:
        #: The autograd node that produces its input.
        self.entry = Mark(x.tape, stop, ())
        #: The label of the mark after the layer.
        self._end = end
        #: The number of events before its recomputation.
        self._begins: int | None = None
        #: The number of events before the first node that differs.
        self._differs: int | None = None
        #: The rows that the first layer does not save, and the events after which it frees them, from its recomputation
        #: on.
        self._unsaved: Sequence[tuple[int, int]] = ()

    @property
    def label(self) -> str:
        """The label of the mark before its backward pass."""
        return f"{self._end} backward"

    def input(self, x: Tensor) -> Tensor:
        """Return its input, which has a gradient."""
        return Tensor(x.tape, x.storage, x.shape, x.dtype, self.entry)

    def read_graph(self, tape: Tape, graph: Sequence[Node]) -> None:
        """Find in the graph what differs in the first layer. The nodes are in the order of creation."""
        missing: set[Node] = {self.entry}
        unsaved: set[int] = set()
        differs: Node = self.entry
        saves, hooks = False, set[Any]()
        for node in graph[bisect_right(graph, differs.sequence_nr, key=by_sequence_nr) :]:
            if any(edge is not None and edge[0] in missing for edge in node.edges):
                saved, differs = saved_of_first(node, missing), node
                unsaved.update(node.saved)
                unsaved.difference_update(saved)
                saves = saves or bool(saved)
            if node.hooks is not None:
                hooks.add(node.hooks)
            if node.__class__ is Mark and node.context == self._end:
                break
        is_trained = differs.context != self._end
        # The checkpoint keeps what the layer receives until its last node has run, which saves something.
        own = hooks.pop() if is_trained and saves and len(hooks) == 1 else None
        freed = own.freed_without(unsaved) if isinstance(own, RepeatedCheckpoint) else None
        if own is not None and freed is not None:
            self._unsaved, own.repeats = freed, self._begin
            differs.apply = partial(self._differ, tape, differs.apply)

    def backward(self, tape: Tape, expanded: Lifetimes, start: int) -> FirstBackward | None:
        """Return the first layer's backward pass, or None if it is not known.

        `expanded` are the lifetimes on the tape with expanded loops, on which the pass begins at `start`. It has no
        loops itself.
        """
        if self._begins is None or self._differs is None:
            return None
        ahead = start - tape.position(self.label)
        begins = self._begins + ahead
        first_row = expanded.next_row(begins)
        unsaved = [(first_row + own, begins + freed) for own, freed in self._unsaved]
        return FirstBackward(start, self._differs + ahead, tuple(unsaved))

    def _begin(self, events: int) -> None:
        self._begins = events

    def _differ(self, tape: Tape, rule: Rule, node: Node, grad: Any) -> Sequence[Tensor | None]:
        self._differs = len(tape.events)
        return rule(node, grad)


def saved_of_first(node: Node, missing: set[Node]) -> Sequence[Any]:
    """Return the tensors that the first layer's node saves, if no gradient flows to the missing nodes.

    A node that the first layer lacks is added to them.
    """
    for edge in node.edges:
        if edge is not None and edge[0] not in missing:
            return saved_without(node, missing)
    missing.add(node)
    return ()


def stop(_: Node, grad: Tensor) -> tuple[()]:  # noqa: ARG001  nothing before the layers is trained
    """Pass no gradient on."""
    return ()
