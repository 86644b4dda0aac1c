"""A first layer that is not interpreted, because the next layer determines what it allocates."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.engine.autograd import Node
    from calculator.engine.copies import Copies
    from calculator.engine.memory_curve import Window
    from calculator.engine.recording import Recording
    from calculator.engine.tape import Tape, Tensor


class Additions(NamedTuple):
    """The storages that a skipped layer adds outside the windows of the interpreted layer.

    Each addition has a window of zero length.
    """

    windows: tuple[Window, ...]
    gained: list[dict[int, int]]


class SkippedLayer(Protocol):
    """The first layer of a stack, whose memory follows from the layer that is interpreted in its place."""

    #: The row of its output, which is the input of the interpreted layer.
    output_row: int

    #: The event at which its forward pass would begin.
    start: int

    def note_cache(self, cached: Iterable[Sequence[Tensor]]) -> None:
        """Store which keys and values the cache contains, before the forward pass frees it."""

    def read_graph(self, tape: Tape, graph: Sequence[Node]) -> None:
        """Find in the graph which tensors the first layer does not save.

        The nodes of the graph are in the order of creation.
        """

    def additions(self, copies: Copies) -> Additions:
        """Return the storages that the first layer adds outside the windows of the interpreted layer."""

    def is_regular(self, copies: Copies) -> bool:
        """Return whether its tensors live as long as those of other layers, as far as sizes do not decide that."""

    def is_determined(self, recording: Recording) -> bool:
        """Return whether the recording determines the step, including the first layer's own passes."""
