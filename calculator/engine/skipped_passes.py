"""No-grad passes that are not interpreted (see `skipped_passes` and `skipped_references` in `training_step`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import AddedRows, Tape, Tensor

#: The end of the marks where a pass is skipped.
SKIPPED = "skipped"
#: The marks before and after the trained pass, and the mark after its decoder if that returns another dtype than was
#: assumed.
TRAINED, TRAINED_END, DIFFERS = "trained pass", "trained pass: end", "trained pass: another dtype"


class DerivedLayer(NamedTuple):
    """The layer of a trained pass whose live bytes are the same in a pass without a graph.

    Attributes:
        input_row: The row of its input.
        keeps_input: Whether the decoder keeps the first layer's input while later layers run.
        trains: Whether it depends on whether the model trains.
    """

    input_row: int
    keeps_input: bool
    trains: bool


class CachedPair(NamedTuple):
    """The keys and values that a layer of a trained pass would append to a cache, if it had one.

    Attributes:
        at: The position among the events where it would append them.
        rows: The rows of the keys and of the values.
        shapes: Their shapes: (batch, heads, sequence, head_dim).
        dtypes: Their dtypes.
    """

    at: int
    rows: tuple[int, int]
    shapes: tuple[Shape, Shape]
    dtypes: tuple[DType, DType]


class TrainedDecoder(NamedTuple):
    """The decoder of a trained pass, whose layer has the same live bytes in a pass without a graph.

    Attributes:
        start: The position among the events where the pass begins.
        end: The position where the decoder ends.
        first_row: The first row of the pass.
        layer: The layer.
        cached: What the layer would append to a cache.
    """

    start: int
    end: int
    first_row: int
    layer: DerivedLayer
    cached: CachedPair


class SkippedRecord(NamedTuple):
    """The skipped passes of a micro-batch, and what their peaks are derived from.

    Attributes:
        passes: The prefix of each pass's marks, and its reference. None for the trained model.
        layer: The layer from which their peaks are derived. None if they only have a bound.
        pass_peaks: Those of `SkippedPasses`. Empty if sizes are symbolic.
    """

    passes: Sequence[tuple[str, str | None]]
    layer: DerivedLayer | None
    pass_peaks: Mapping[str | None, int | None]


class SkippedPasses:
    """The skipped passes of a micro-batch, which are not interpreted, and the trained pass that bounds their peaks."""

    __slots__ = (
        "_cached",
        "_dtypes",
        "_end",
        "_generates",
        "added",
        "compared_at",
        "derives",
        "finds_peaks",
        "first_row",
        "is_over",
        "layer",
        "needs_peaks",
        "pass_peaks",
        "passes",
        "room",
        "start",
        "traces_later_passes",
    )

    def __init__(self, *, needs_peaks: bool) -> None:
        #: Whether the peak of each pass is needed. Otherwise it is enough that no pass has a peak of the step.
        self.needs_peaks = needs_peaks
        #: The prefix of each pass's marks, and its reference.
        self.passes: list[tuple[str, str | None]] = []
        #: The dtype of the hidden states of each pass.
        self._dtypes: list[DType] = []
        #: Whether the trained pass's layer is observed, because the peaks of passes may be derived from it, and this
        #: layer if they can.
        self.derives = False
        self.layer: DerivedLayer | None = None
        #: Whether the peaks of passes inside the micro-batch are derived from it.
        self.finds_peaks = False
        #: Whether those of passes of `generate` are. What layers would append to a cache, and the position among the
        #: events where the decoder ends.
        self._generates = False
        self._cached: list[CachedPair] = []
        self._end = 0
        #: The first row of the trained pass.
        self.first_row = 0
        #: Whether the trained pass has begun, and whether references after it may be skipped too.
        self.is_over = self.traces_later_passes = False
        #: The number of events before the trained pass, and the rows that adapters allocate in it (see `Tape.added`).
        #: None unless passes without adapters may be skipped after it.
        self.start = 0
        self.added: Sequence[AddedRows] | None = None
        #: The bytes by which such a pass is below the peak of the trained pass, None until they are computed, and the
        #: number of events before this was computed.
        self.room: int | None = None
        self.compared_at = 0
        #: The peaks of passes by reference (None for the trained model), without the bytes that are alive before a
        #: pass. A peak is None if it is not certain.
        self.pass_peaks: dict[str | None, int | None] = {}

    @property
    def record(self) -> SkippedRecord | None:
        """The skipped passes. None if there are none."""
        return (
            SkippedRecord(self.passes, self.layer if self.finds_peaks else None, self.pass_peaks)
            if self.passes
            else None
        )

    @property
    def decoder(self) -> TrainedDecoder | None:
        """The decoder of the trained pass. None if passes of `generate` cannot be derived from it."""
        if self.layer is None or not self._generates or len(self._cached) != 1:
            return None
        return TrainedDecoder(self.start, self._end, self.first_row, self.layer, self._cached[0])

    def begin(self, tape: Tape, prefix: str, compared: str | None, dtype: DType) -> None:
        """Mark where a pass would run whose hidden states have a data type. Its marks begin with `prefix`."""
        tape.mark(f"{prefix}{SKIPPED}")
        self.passes.append((prefix, compared))
        self._dtypes.append(dtype)

    def begin_trained(self, tape: Tape, *, lists_added: bool, derives: bool, generates: bool) -> None:
        """Mark where the trained pass begins, if passes before it were skipped, or passes after it may be.

        `lists_added`: whether to list the rows that adapters allocate. `derives` and `generates`: whether the peaks of
        passes of the micro-batch, and those of `generate`, may be derived from its layer.
        """
        self.finds_peaks, self._generates, derives = derives, generates, derives or generates
        if (self._dtypes or lists_added or derives) and not self.is_over:
            tape.mark(TRAINED)
            self.start, self.first_row, self.derives = len(tape.events), len(tape.rows), derives
            tape.added = [] if lists_added else None
        self.is_over = True

    def note_cached(self, key: Tensor, value: Tensor) -> None:
        """Note what a layer would append to a cache here, if it is a layer of the trained pass."""
        if self.derives and self._generates and key.storage is not None and value.storage is not None:
            rows, dtypes = (key.storage.row, value.storage.row), (key.dtype, value.dtype)
            self._cached.append(CachedPair(len(key.tape.events), rows, (key.shape, value.shape), dtypes))

    def end_trained(self, tape: Tape) -> None:
        """Mark where the trained pass ends, and keep the rows that adapters have allocated in it."""
        if self.derives:
            tape.mark(TRAINED_END)
            self.derives = False
        if tape.added is not None:
            self.added, tape.added = tape.added, None

    def compare(self, hidden_states: Tensor) -> None:
        """Note where the decoder of the trained pass ends. Mark that it computes another dtype, if it does."""
        self._end = len(hidden_states.tape.events)
        if any(dtype != hidden_states.dtype for dtype in self._dtypes):
            hidden_states.tape.mark(DIFFERS)
