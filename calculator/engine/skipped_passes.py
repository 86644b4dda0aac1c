"""No-grad passes that are not interpreted (see `training_step.skipped_passes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor

#: The end of the marks where a pass is skipped.
SKIPPED = "skipped"
#: The mark before the trained pass, and the mark after its decoder if that returns another dtype than was assumed.
TRAINED, DIFFERS = "trained pass", "trained pass: another dtype"


class SkippedPasses:
    """The passes of a micro-batch that are not interpreted."""

    __slots__ = ("_dtypes", "is_over")

    def __init__(self) -> None:
        #: The dtype of the hidden states of each pass.
        self._dtypes: list[DType] = []
        #: Whether the trained pass has begun.
        self.is_over = False

    def begin(self, tape: Tape, prefix: str, dtype: DType) -> None:
        """Mark where a pass would run whose hidden states have a data type. Its marks begin with `prefix`."""
        tape.mark(f"{prefix}{SKIPPED}")
        self._dtypes.append(dtype)

    def begin_trained(self, tape: Tape) -> None:
        """Mark where the trained pass begins, if passes before it were left out."""
        if self._dtypes and not self.is_over:
            tape.mark(TRAINED)
        self.is_over = True

    def compare(self, hidden_states: Tensor) -> None:
        """Mark that the trained pass computes hidden states of another dtype, if it does."""
        if any(dtype != hidden_states.dtype for dtype in self._dtypes):
            hidden_states.tape.mark(DIFFERS)
