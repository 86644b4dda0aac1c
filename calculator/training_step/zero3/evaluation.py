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
    from calculator.engine.recording import Recording
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.evaluation import Batch
    from calculator.sharding.zero3.state import PartitionedState


class PartitionedEvaluation:
    """What stage 3 gathers in the first batch of an evaluation and in later ones."""

    def __init__(self, state: PartitionedState) -> None:
        self._state = state
        self._marks: list[tuple[int, str]] = []
        self._batches: tuple[Batch, Batch] | None = None

    def batch(self, tape: Tape, *, is_first: bool) -> Batch:
        """A batch, whose pass is on the tape. Those with other rows call the same modules."""
        if self._batches is None or self._marks != tape.marks:
            self._marks, self._batches = tape.marks, self._run(tape)
        return self._batches[not is_first]

    def _run(self, tape: Tape) -> tuple[Batch, Batch]:
        run = interpreted(training_context(self._state.prepared), whole=True).run()
        gathering = evaluation_gathering(self._state, run.tape, run.repetition, run.copies.windows)
        return gathering.batches(tape)

    def left(self, *, is_first: bool) -> int:
        """The bytes that a batch leaves gathered."""
        return 0 if self._batches is None else self._batches[not is_first].left


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
