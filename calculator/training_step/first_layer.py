"""The first decoder layer, whose memory follows from another layer if its input needs no gradient.

If nothing before the layers is trained, as with LoRA in the layers alone, the first layer lacks the autograd nodes that
only compute its input's gradient. It does not save the tensors that only those nodes need. Otherwise it is like the
layers after it. So only one layer is interpreted, with an input that requires a gradient. Its graph shows what the
first layer saves.

Under checkpointing every layer saves its input alone, so that only the backward pass of the first one differs. It is
interpreted as if its input required a gradient (see `enter_layers`), and represents all layers. The peak of the first
layer's own backward pass follows from it too (see `layer_in_place`).

At each point, the first layer has at most as many live bytes as the interpreted layer: it allocates nothing more and
frees nothing later. This bounds the bytes alive in its own passes (see `first_layer_bound`). If the bound is below the
peak elsewhere, the peak is not in the first layer. Otherwise, or if tensors live in a way that this module does not
model, the first layer is interpreted too (see `FirstLayer.is_determined`).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from calculator.engine.autograd import Mark, by_sequence_nr
from calculator.engine.copies import add
from calculator.engine.layer_in_place import LayerInPlace, saved_of_first, stop
from calculator.engine.memory_curve import Window
from calculator.engine.skipped_layer import Additions
from calculator.training_step import first_layer_bound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.engine.autograd import Node
    from calculator.engine.copies import Copies
    from calculator.engine.recording import Recording
    from calculator.engine.tape import Tape, Tensor
    from calculator.layers.context import Context


def enter_layers(context: Context, x: Tensor) -> Tensor:
    """Return the input of the first layer that is interpreted: of the second one if the first is skipped."""
    if can_skip_first_layer(context, x):
        context.repetition = context.repetition.from_first_period()
        context.skipped_layer = first = FirstLayer(x, f"layer {context.repetition.end}")
        return first.output(x)
    if context.bounds_first_layer and _saves_less(context, x):
        context.repetition, context.may_repeat_first_period = context.repetition.from_first_period(), False
        in_place = LayerInPlace(x, f"layer {context.repetition.end}")
        context.layer_in_place = in_place if context.shows_first_layer else None
        return in_place.input(x)
    context.bounds_first_layer = False
    return x


def can_skip_first_layer(context: Context, x: Tensor) -> bool:
    """Return whether the first layer, with input `x`, may be skipped, and differs from the others in what it saves."""
    return context.may_skip_first_layer and _saves_less(context, x)


def _saves_less(context: Context, x: Tensor) -> bool:
    """Return whether the first layer, with input `x`, differs from the others only in what it saves.

    The layer's first linear module must be trained. Otherwise the tensors that layers share are freed before the first
    layer's backward pass.
    """
    if context.model.encoder_layers or x.edge is not None or context.past:
        return False
    if not context.repetition.begins_with_period:
        return False
    layers = context.model.decoder
    module = next(module for module in layers.layers[0].modules if module.kind in ("linear", "conv1d"))
    module_spec = context.prepared.module_spec(f"{layers.name}.*.{module.name}", module)
    return bool(module_spec.added or module_spec.trained)


class FirstLayer:
    """The first layer of a stack, which is not interpreted. The layer after it is."""

    __slots__ = (
        "cached",
        "end",
        "entry",
        "input_row",
        "interpreted_output_row",
        "is_trained",
        "output_row",
        "start",
        "unsaved",
    )

    def __init__(self, x: Tensor, end: str) -> None:
        #: The label of the mark after the interpreted layer.
        self.end = end
        self.input_row = x.storage.row if x.storage is not None else -1
        #: The row of its output, which is the input of the interpreted layer.
        self.output_row = len(x.tape.rows)
        self.interpreted_output_row = -1
        #: The event at which its forward pass would begin.
        self.start = len(x.tape.events)
        #: The autograd node that produces the input of the interpreted layer.
        self.entry = Mark(x.tape, stop, ())
        #: The rows that the cache holds until the forward pass ends.
        self.cached: set[int] = set()
        #: The rows that the interpreted layer saves for its backward pass, but the first layer does not.
        self.unsaved: set[int] = set()
        #: Whether a gradient reaches the first layer.
        self.is_trained = False

    def output(self, x: Tensor) -> Tensor:
        """Allocate the output of the first layer."""
        return x.tape.new(x.shape, x.dtype, "output of the first layer", self.entry)

    def note_cache(self, cached: Iterable[Sequence[Tensor]]) -> None:
        """Store which keys and values the cache contains, before the forward pass frees it."""
        self.cached = {tensor.storage.row for pair in cached for tensor in pair if tensor.storage is not None}

    def read_graph(self, tape: Tape, graph: Sequence[Node]) -> None:
        """Find in the graph which tensors the first layer does not save. The nodes are in the order of creation.

        Shared tensors that the first layer saves too stay alive until its own backward pass. Its output has the same
        kind as that of the interpreted layer.
        """
        rows, self.interpreted_output_row = tape.rows, tape.marked_rows[f"{self.end} forward"]
        rows[self.output_row] = rows[self.interpreted_output_row]
        missing: set[Node] = {self.entry}
        #: What nodes save that differ in the first layer, and what its own nodes save.
        changed: list[Sequence[Any]] = []
        kept: list[Sequence[Any]] = []
        for node in graph[bisect_right(graph, self.entry.sequence_nr, key=by_sequence_nr) :]:
            saved = node.saved
            for edge in node.edges:
                if edge is not None and edge[0] in missing:
                    changed.append(saved)
                    saved = saved_of_first(node, missing)
                    break
            if saved:
                kept.append(saved)
            if node.__class__ is Mark and node.context == self.end:
                self.is_trained = node not in missing
                break
        tensors = _by_row(kept)
        self.unsaved = _by_row(changed).keys() - tensors.keys()
        self.entry.saved = [tensors[row] for row in tensors if row < self.output_row]

    def additions(self, copies: Copies) -> Additions:
        """Return the storages that the first layer adds outside the windows.

        They are those that it saves, and those that it leaves when the step ends. If it saves its input, the input
        stays alive after all other references to it are gone.
        """
        forward, backward = copies.windows
        ends = copies.lifetimes.ends
        excluded = self.unsaved | {self.interpreted_output_row}
        windows = [_window_at(forward.start)]
        gained = [copies.count_kinds([row for row in copies.surviving[0] if row not in excluded])]
        freed_elsewhere = max(forward.start, ends[self.input_row] + 1)
        if ends[self.output_row] >= backward.start > freed_elsewhere and self.output_row not in self.unsaved:
            windows.append(_window_at(freed_elsewhere))
            gained.append(copies.count_kinds((self.input_row,)))
        after = {**copies.net}
        for counts in gained:
            add(after, counts, -1)
        return Additions(windows=(*windows, _window_at(copies.marks["end"])), gained=[*gained, after])

    def is_regular(self, copies: Copies) -> bool:
        """Return whether its tensors live as long as those of other layers, as far as sizes do not decide that."""
        return (
            self.is_trained
            and not self.unsaved & self.cached
            and min(self.unsaved, default=self.output_row) >= self.output_row
            and self._frees_only_its_input(copies)
            and _are_gradients(copies)
        )

    def is_determined(self, recording: Recording) -> bool:
        """Return whether the recording determines the whole step.

        The peak must not be in the first layer's own passes.
        """
        return recording.copies.is_regular and first_layer_bound.is_below_peak(recording)

    def _frees_only_its_input(self, copies: Copies) -> bool:
        """Return whether a layer frees no tensor of the code before it except its input."""
        forward, backward = copies.windows[:2]
        ends = copies.lifetimes.ends
        low, high, begin, done = forward.start, forward.end, backward.start, backward.end
        freed = [row for row in range(self.output_row + 1) if low <= ends[row] < high or begin <= ends[row] < done]
        between = copies.lifetimes.freed(copies.surviving[0], high, begin)
        return freed == [self.output_row] and self.cached.issuperset({*between} - {self.interpreted_output_row})


def _are_gradients(copies: Copies) -> bool:
    """Return whether a copy leaves nothing but gradients."""
    keys = copies.kinds.keys
    return all(count > 0 and keys[kind][3] == "gradients" for kind, count in copies.remaining.items())


def _by_row(saved: list[Sequence[Any]]) -> dict[int, Tensor]:
    """Return the saved tensors of several nodes by the rows of their storages."""
    return {tensor.storage.row: tensor for tensors in saved for tensor in tensors if tensor.storage is not None}


def _window_at(position: int) -> Window:
    return Window(before=position, start=position, end=position, copies=1)
