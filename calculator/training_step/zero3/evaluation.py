"""The batches of an evaluation under stage 3: the pass's own tensors, and the weights that are gathered then."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from calculator.engine.memory_curve import Moment
from calculator.sharding.zero3.evaluation import evaluation_gathering
from calculator.sharding.zero3.gathering import Moment as GatherMoment
from calculator.training_step.run import interpreted
from calculator.training_step.training_context import training_context

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.engine.recording import Recording
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.evaluation import Batch
    from calculator.sharding.zero3.state import PartitionedState


#: The most batches that are followed, where passes generate. A pass inside PEFT's model drops the order of modules,
#: which the second batch records again, and the third follows.
BATCHES = 4

#: The passes of a later token that are followed. All gather as the last of them does.
LATER_TOKENS = 3


class PartitionedEvaluation:
    """What stage 3 gathers in the passes of an evaluation's batches: those that generate, and that of the loss."""

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
        """What the pass of the loss gathers in a batch, by its number."""
        return self._of(tape, number)[-1:]

    def generated(self, tape: Tape, which: int, number: int) -> list[Batch]:
        """What a pass of `generate` gathers in a batch, or those of later tokens. The tape is of the loss after it."""
        passes = self._of(tape, number)
        return passes[2:-1] if which == 2 else passes[which : which + 1]

    def left(self, number: int) -> int:
        """The bytes that a batch leaves gathered."""
        return self._batches[min(number, len(self._batches) - 1)][-1].left if self._batches else 0

    def _of(self, tape: Tape, number: int) -> list[Batch]:
        if not self._batches or self._marks != tape.marks:
            self._marks, self._batches = tape.marks, self._run(tape)
        return self._batches[min(number, len(self._batches) - 1)]

    def _run(self, tape: Tape) -> list[list[Batch]]:
        run = interpreted(training_context(self._state.prepared), whole=True).run()
        gathering = evaluation_gathering(self._state, run.tape, run.repetition, run.copies.windows)
        return gathering.batches([*self._before, tape], self._count)


def fullest_of(recording: Recording, batches: Sequence[Batch]) -> tuple[Moment, int]:
    """The fullest moment of a pass in some batches, with the bytes that are gathered then in its own."""
    return max((fullest(recording, each) for each in batches), key=lambda found: found[0].bytes)


def fullest(recording: Recording, batch: Batch) -> tuple[Moment, int]:
    """The fullest moment of a batch, with the bytes that are gathered then in its own."""
    alive = [0, *accumulate(recording.curve.changes)]
    at, gathered = 0, batch.found
    most = event = gathered_then = 0
    for moment in (*batch.moments, GatherMoment(len(alive) - 1, 0, 0)):
        before = max(range(at, moment.position + 1), key=alive.__getitem__)
        for place, own in ((before, gathered), (moment.position, moment.most)):
            if alive[place] + own > most:
                most, event, gathered_then = alive[place] + own, place, own
        at, gathered = moment.position, moment.after
    return Moment(event=event, bytes=most, repeats=()), gathered_then
