"""No-grad passes that are not interpreted (see `skipped_passes` and `skipped_references` in `training_step`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor

#: The end of the marks where a pass is skipped.
SKIPPED = "skipped"
#: The mark before the trained pass, and the mark after its decoder if that returns another dtype than was assumed.
TRAINED, DIFFERS = "trained pass", "trained pass: another dtype"


class SkippedPasses:
    """The passes of a micro-batch that are not interpreted."""

    __slots__ = ("_dtypes", "added", "compared_at", "is_over", "room", "start")

    def __init__(self) -> None:
        #: The dtype of the hidden states of each pass.
        self._dtypes: list[DType] = []
        #: Whether the trained pass has begun.
        self.is_over = False
        #: The number of events before the trained pass, and the rows that adapters allocate in it (see `Tape.added`).
        #: None unless passes without adapters may be skipped after it.
        self.start = 0
        self.added: Sequence[tuple[int, int, int]] | None = None
        #: The bytes by which such a pass is below the peak of the trained pass, None until they are computed, and the
        #: number of events before this was computed.
        self.room: int | None = None
        self.compared_at = 0

    def begin(self, tape: Tape, prefix: str, dtype: DType) -> None:
        """Mark where a pass would run whose hidden states have a data type. Its marks begin with `prefix`."""
        tape.mark(f"{prefix}{SKIPPED}")
        self._dtypes.append(dtype)

    def begin_trained(self, tape: Tape, *, lists_added: bool) -> None:
        """Mark where the trained pass begins, if passes before it were left out, or those after it may be.

        `lists_added`: whether to list the rows that adapters allocate.
        """
        if (self._dtypes or lists_added) and not self.is_over:
            tape.mark(TRAINED)
            self.start = len(tape.events)
            tape.added = [] if lists_added else None
        self.is_over = True

    def end_trained(self, tape: Tape) -> None:
        """Keep the rows that adapters have allocated in the trained pass."""
        if tape.added is not None:
            self.added, tape.added = tape.added, None

    def compare(self, hidden_states: Tensor) -> None:
        """Mark that the trained pass computes hidden states of another dtype, if it does."""
        if any(dtype != hidden_states.dtype for dtype in self._dtypes):
            hidden_states.tape.mark(DIFFERS)
