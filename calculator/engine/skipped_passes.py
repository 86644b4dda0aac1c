"""No-grad passes of which only the head is interpreted (see `training_step.skipped_passes`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.engine.tape import Tape, Tensor

#: The end of the marks where the decoder of a pass is left out.
SKIPPED = "decoder skipped"
#: The mark before the trained pass, and the mark after its decoder if that returns another dtype than was assumed.
TRAINED, DIFFERS = "trained pass", "trained pass: another dtype"


class SkippedPasses:
    """The passes of a micro-batch whose decoder is not interpreted."""

    __slots__ = ("_dtypes", "is_over")

    def __init__(self) -> None:
        #: The dtype of the hidden states of each pass.
        self._dtypes: list[DType] = []
        #: Whether the trained pass has begun.
        self.is_over = False

    @property
    def count(self) -> int:
        """The number of passes so far."""
        return len(self._dtypes)

    def hidden_states(self, tape: Tape, prefix: str, shape: Shape, dtype: DType) -> Tensor:
        """Return hidden states in place of those that the decoder computes. The pass's marks begin with `prefix`."""
        tape.mark(f"{prefix}{SKIPPED}")
        self._dtypes.append(dtype)
        return tape.new(shape, dtype, "hidden states")

    def begin_trained(self, tape: Tape) -> None:
        """Mark where the trained pass begins, if passes before it were left out."""
        if self._dtypes and not self.is_over:
            tape.mark(TRAINED)
        self.is_over = True

    def compare(self, hidden_states: Tensor) -> None:
        """Mark that the trained pass computes hidden states of another dtype, if it does."""
        if any(dtype != hidden_states.dtype for dtype in self._dtypes):
            hidden_states.tape.mark(DIFFERS)
