"""The batches of an evaluation under stage 3: each pass's own tensors, and the gathered weights."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.engine.memory_curve import Moment
from calculator.sharding.zero3.evaluation import evaluation_gathering
from calculator.sharding.zero3.track import Moment as GatherMoment
from calculator.training_step.run import interpreted
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.recording import Recording
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.evaluation import Batch
    from calculator.sharding.zero3.state import PartitionedState


#: The maximum number of batches that are followed if passes generate. A pass inside PEFT's model drops the recorded
#: order of modules. The second batch records it again, and the third follows it.
BATCHES = 4

#: The maximum number of passes of later tokens that are followed. All further ones gather like the last of them.
LATER_TOKENS = 3


class PartitionedEvaluation:
    """The weights that stage 3 gathers in the passes of an evaluation's batches: generation, and loss."""

    def __init__(self, state: PartitionedState, batches: int, generated: Sequence[Tape] = (), tokens: int = 0) -> None:
        """Follow the passes of some batches.

        `generated` are the passes of `generate` before each loss: of the prompts, of the second token, and of the last
        of `tokens`.
        """
        self._state = state
        self._count = min(BATCHES if generated else 2, batches)
        self._before = [*generated[:2], *[*generated[2:]] * min(LATER_TOKENS, max(0, tokens - 2))]
        self._marks: list[tuple[int, str]] = []
        self._batches: list[list[Batch]] = []

    def batch(self, tape: Tape, number: int) -> list[Batch]:
        """Return the weights that the pass of the loss gathers in a batch, by the batch's number."""
        return self._batches_of(tape, number)[-1:]

    def generated(self, tape: Tape, which: int, number: int) -> list[Batch]:
        """Return the weights that a pass of `generate` gathers in a batch.

        The passes of later tokens count as one. The tape belongs to the loss pass after them.
        """
        passes = self._batches_of(tape, number)
        return passes[2:-1] if which == 2 else passes[which : which + 1]

    def gathered_after(self, number: int) -> int:
        """Return the bytes that a batch leaves gathered."""
        return self._batches[min(number, len(self._batches) - 1)][-1].gathered_at_end if self._batches else 0

    def _batches_of(self, tape: Tape, number: int) -> list[Batch]:
        if not self._batches or self._marks != tape.marks:
            self._marks, self._batches = tape.marks, self._run(tape)
        return self._batches[min(number, len(self._batches) - 1)]

    def _run(self, tape: Tape) -> list[list[Batch]]:
        run = interpreted(training_context(self._state.prepared), whole=True).run()
        gathering = evaluation_gathering(self._state, run.tape, run.repetition, run.copies.windows)
        return gathering.batches([*self._before, tape], self._count)


def peak_of_batches(recording: Recording, batches: Sequence[Batch]) -> tuple[Moment, int]:
    """Return the peak moment of a pass over some batches, and the bytes that are gathered at that moment."""
    return max((peak_of_batch(recording, batch) for batch in batches), key=lambda peak: peak[0].bytes)


def peak_of_batch(recording: Recording, batch: Batch) -> tuple[Moment, int]:
    """Return the peak moment of a batch, and the bytes that are gathered at that moment."""
    alive = [0, *accumulate(recording.curve.changes)]
    at, gathered = 0, batch.gathered_before
    most = event = gathered_then = 0
    for moment in (*batch.moments, GatherMoment(len(alive) - 1, 0, 0)):
        before = max(range(at, moment.position + 1), key=alive.__getitem__)
        for place, own in ((before, gathered), (moment.position, moment.most)):
            if alive[place] + own > most:
                most, event, gathered_then = alive[place] + own, place, own
        at, gathered = moment.position, moment.after
    return Moment(event=event, bytes=most, repeats=()), gathered_then
