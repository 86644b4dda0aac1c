"""The layers of a no-grad pass as a loop, of which the tape gets the events of every layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.engine.loops import Loop
from calculator.engine.repetition import Repetition

if TYPE_CHECKING:
    from calculator.engine.tape import Tape, Tensor


class LayerLoop:
    """A loop whose iterations are the periods of a model's layers. Loops inside the layers are interpreted in full."""

    __slots__ = ("_loop", "_starts", "repetition")

    def __init__(self, tape: Tape, layers: Repetition, count: int) -> None:
        start, end, copies = layers.start, layers.end, layers.copies
        period = max(1, end - start)
        #: The iterations include the period before the repeated one, which is like it except for what precedes it.
        self._loop = Loop(tape, copies + 2 if copies else 0)
        interpreted = self._loop.interpreted
        self._starts = range(start - period, start + (interpreted - 1) * period, period)
        skipped = self._loop.skipped * period
        last = start + 2 * period
        numbers = (*range(last), *range(last + skipped, count)) if skipped else tuple(range(count))
        #: The layers that run, all of them by themselves.
        self.repetition = Repetition(numbers=numbers, start=len(numbers), end=len(numbers), copies=0)

    def begin(self, position: int, state: Tensor) -> Tensor:
        """Begin the layer at a position of `repetition.numbers`. The position after the last layer ends the loop."""
        if not self._loop.skipped:
            return state
        if position in (self._starts.start, self._starts.stop):
            state.tape.folds_loops = position == self._starts.stop
        return self._loop.begin(state) if position in self._starts else state
