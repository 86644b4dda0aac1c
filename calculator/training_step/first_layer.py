"""The first layer of a stack, told from the one that is run, where its input needs no gradient.

Nothing before the layers is trained, as with LoRA in the layers alone. The first layer then lacks the nodes whose only
gradient would be its input's, and what those alone save. In all else it is like the layers after it, so only one of
these is run, with an input that gets a gradient, and what the first keeps is told from that one's graph.

At no point has the first more alive than the layer that is run has at the same point: it makes nothing else and holds
nothing longer. So the most that can be alive in its own passes is known (see `ceiling`), and where that is no more than
what is alive elsewhere, no peak lies in it. Where it could, and where storages go ways that are not told apart here,
the first layer must be run too: `FirstLayer.is_told` says so.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import TYPE_CHECKING, Any

from calculator.engine.autograd import Mark, by_sequence_nr, saved_without
from calculator.engine.memory_curve import Window
from calculator.engine.skipped_layer import Sides
from calculator.training_step import first_layer_bound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.engine.autograd import Node
    from calculator.engine.recording import Recording
    from calculator.engine.tape import Allocation, Tape, Tensor
    from calculator.layers.context import Context


def may_be_told(context: Context, x: Tensor) -> bool:
    """Whether the first layer, whose input is given, is like the others but for what it keeps of that.

    It is not tried where nothing is trained of the first product that the layer makes, which its attention starts from:
    what the layers share is then let go before the first layer's backward pass.
    """
    if not context.may_skip_first_layer or x.edge is not None or context.past:
        return False
    if context.repetition.from_first_period().start > 0:
        return False
    layers = context.model.decoder
    module = next(module for module in layers.layers[0].modules if module.kind in ("linear", "conv1d"))
    module_spec = context.prepared.module_spec(f"{layers.name}.*.{module.name}", module)
    return bool(module_spec.added or module_spec.trained)


class FirstLayer:
    """What is known of the layer that is not run.

    `entered`: the row of its input. `row`: of its output, which is the run layer's input; rows before `before` are made
    before that runs, and `start` is where its own pass would begin. `entry`: the node that the run layer's input leads
    to, `end` the label of the mark behind that layer. `out`: the row of the run layer's output. `cached`: rows in the
    cache until the forward pass ends. `let_go`: rows that the run layer keeps for the backward pass and the first does
    not. `is_trained`: whether a gradient flows back to it at all.
    """

    __slots__ = ("before", "cached", "end", "entered", "entry", "is_trained", "let_go", "out", "row", "start")

    def __init__(self, x: Tensor, end: str) -> None:
        self.end = end
        self.entered = x.storage.row if x.storage is not None else -1
        self.row = len(x.tape.rows)
        self.out = -1
        self.before = self.row + 1
        self.start = len(x.tape.events)
        self.entry = Mark(x.tape, _no_further, ())
        self.cached: set[int] = set()
        self.let_go: set[int] = set()
        self.is_trained = False

    def output(self, x: Tensor) -> Tensor:
        """What it makes of its input."""
        return x.tape.new(x.shape, x.dtype, "output of the first layer", self.entry)

    def sees(self, cached: Iterable[Tensor]) -> None:
        """What is in the cache before the forward pass lets it go."""
        self.cached = {tensor.storage.row for tensor in cached if tensor.storage is not None}

    def look(self, tape: Tape, graph: Sequence[Node]) -> None:
        """Find what the first layer lets go in the graph, whose nodes come in the order of their making.

        What the layers share, and the first keeps too, stays until its own backward pass. Its output is of the kind
        that the run layer's has by now.
        """
        rows, self.out = tape.rows, tape.marked_rows[f"{self.end} forward"]
        rows[self.row] = rows[self.out]
        missing: set[Node] = {self.entry}
        kept: list[Sequence[Any]] = []
        for node in graph[bisect_right(graph, self.entry.sequence_nr, key=by_sequence_nr) :]:
            saved = node.saved
            for edge in node.edges:
                if edge is not None and edge[0] in missing:
                    self.let_go.update(_rows(saved))
                    saved = self._saved(node, missing)
                    break
            if saved:
                kept.append(saved)
            if node.context == self.end:
                self.is_trained = node not in missing
                break
        tensors = {tensor.storage.row: tensor for saved in kept for tensor in saved if tensor.storage is not None}
        self.let_go.difference_update(tensors)
        self.entry.saved = [tensors[row] for row in tensors if row < self.before and row != self.row]

    @staticmethod
    def _saved(node: Node, missing: set[Node]) -> Sequence[Any]:
        """What the first layer's node saves, where it has that node at all; that it has not is noted."""
        if all(edge is None or edge[0] in missing for edge in node.edges):
            missing.add(node)
            return ()
        return saved_without(node, missing)

    def beside(self, recording: Recording) -> Sides:
        """What the first layer adds beside the windows of the run one: what it keeps, and at the end what it leaves.

        Its input goes on being held where the first layer keeps it, once whatever else holds it has let it go.
        """
        forward, backward = recording.windows
        told, ends = recording.tape.rows, recording.lifetimes.ends
        kept = Counter([told[row] for row in recording.surviving[0] if row not in self.let_go and row != self.out])
        windows, gained = [_at(forward.start)], [kept]
        alone = max(forward.start, ends[self.entered] + 1)
        if ends[self.row] >= backward.start > alone and self.row not in self.let_go:
            windows.append(_at(alone))
            gained.append(Counter((told[self.entered],)))
        after = Counter(recording.net)
        for each in gained:
            after.subtract(each)
        return Sides(windows=(*windows, _at(recording.tape.position("end"))), gained=[*gained, after])

    def is_told(self, recording: Recording) -> bool:
        """Whether the recording says all of the step but the first layer's own passes, in which no peak lies."""
        remaining = recording.remaining
        return (
            self.is_trained
            and not self.let_go & self.cached
            and min(self.let_go, default=self.row) >= self.row
            and self._hands_on_alone(recording)
            and _are_gradients(remaining)
            and first_layer_bound.is_below_the_peak(recording, remaining)
        )

    def _hands_on_alone(self, recording: Recording) -> bool:
        """Whether a layer frees nothing of those before it but its input."""
        forward, backward = recording.windows[:2]
        ends = recording.lifetimes.ends
        low, high, begin, done = forward.start, forward.end, backward.start, backward.end
        freed = [row for row in range(self.before) if low <= ends[row] < high or begin <= ends[row] < done]
        between = recording.lifetimes.freed(recording.surviving[0], high, begin)
        return freed == [self.row] and self.cached.issuperset({*between} - {self.out})


def _are_gradients(remaining: Counter[Allocation]) -> bool:
    return all(count >= 0 and (not count or born[3] == "gradients") for born, count in remaining.items())


def _rows(saved: Sequence[Any]) -> list[int]:
    return [tensor.storage.row for tensor in saved if tensor.storage is not None]


def _at(position: int) -> Window:
    return Window(before=position, start=position, end=position, copies=1)


def _no_further(_: Node, grad: Tensor) -> tuple[()]:  # noqa: ARG001  nothing before the layers is trained
    return ()
