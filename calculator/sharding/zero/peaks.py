"""The peaks of a step under stages 1 and 2, on the fullest rank."""

from __future__ import annotations

from collections import Counter
from functools import partial
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred
from calculator.engine.live_tensors import LiveTensors
from calculator.sharding.zero.backward import BackwardPass
from calculator.sharding.zero.optimizer_step import OptimizerStep
from calculator.sharding.zero.reduction import Point, Reduction
from calculator.training_step.peak import Peak

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.engine.memory_curve import Moment
    from calculator.engine.recording import Recording
    from calculator.engine.tape import Allocation
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensors import ResidentTensor
    from calculator.sharding.zero.state import FlatState
    from calculator.training_step.run import Run


class Rank(NamedTuple):
    """One rank's tensors in the passes and in the optimizer's step, besides what stays on every rank.

    `accumulated` are those that earlier micro-batches of the step left, `backward` those at its point.
    """

    number: int
    accumulated: tuple[ResidentTensors, ...]
    backward: tuple[ResidentTensors, ...]
    point: Point
    step: tuple[ResidentTensors, ...]


#: A rank's fullest point in the backward pass, with the gradients of its partition there.
Fullest = tuple[Point, tuple["ResidentTensors", ...]]


def _bytes(tensors: Sequence[ResidentTensors]) -> int:
    return sum([tensor.bytes for tensor in tensors])


def _left(left: Counter[Allocation]) -> int:
    return sum([kind[4] * count for kind, count in left.items()])


_SIZE = attrgetter("bytes")


class FlatPeaks:
    """The peaks of a step on each rank, and on the fullest."""

    def __init__(self, state: FlatState, run: Run, recording: Recording, left: Counter[Allocation]) -> None:
        self._state, self._run, self._recording, self._left = state, run, recording, left
        self._kept = state.kept
        self._passed = BackwardPass(run, recording)
        self._reduction = Reduction(state.plan).run(self._passed)
        self._earlier = state.plan.fullest_of_earlier(self._passed, state.prepared.training.gradient_accumulation_steps)

    def rank(self, number: int) -> Rank:
        """What one rank has."""
        state = self._state
        own, zeros = state.gradients_of(number)
        step = OptimizerStep(state, number, (*own, *zeros))
        accumulated = state.accumulated_by(number)
        point, added = max(self._candidates(number, own, (*zeros, *step.padding())), key=_total)
        return Rank(number, accumulated, (*state.partition_of_earlier(number), *added), point, step.fullest.tensors)

    def _candidates(
        self, number: int, own: tuple[ResidentTensor, ...], last: tuple[ResidentTensor, ...]
    ) -> Iterator[Fullest]:
        """The points that may be the fullest of a rank, each with the gradients of its partition that are alive."""
        intervals, first = self._reduction.intervals, self._reduction.reduced.get(number, len(self._reduction.intervals) - 1)
        if self._earlier is not None:
            yield self._earlier, ()
        large = [each for each in self._reduction.kept if number in each.ranks]
        cuts = sorted({0, first + 1, len(intervals), *(each.interval + 1 for each in large)})
        for start, end in pairwise(cuts):
            freed = sum(each.bytes for each in large if each.interval < start)
            yield max(intervals[start:end], key=_SIZE).without(freed), own if start > first else ()
        at = self._passed.end
        bucket = self._state.plan.bucket_bytes
        left = self._reduction.left - sum(each.bytes for each in large)
        yield Point(at.bytes + bucket + left, at, has_bucket=True, large=left, held=0, copied=0), (*own, *last)

    def fullest(self, forward: int) -> Rank:
        """The rank with the highest peak; of several, the first. `forward` is the forward peak without accumulation."""
        shared, left = _bytes(self._kept), _left(self._left)

        def peak(rank: Rank) -> int:
            backward = shared + rank.point.bytes + _bytes(rank.backward)
            return max(forward + _bytes(rank.accumulated), backward, shared + _bytes(rank.step) + left)

        return max(map(self.rank, range(self._state.partitions.count)), key=peak)

    def peaks(self, carried: Counter[Allocation], marks: dict[str, int]) -> tuple[Peak, Peak, Peak]:
        """Forward, backward and optimizer step of the fullest rank."""
        moment = self._recording.curve.peak(marks["forward"], marks["backward"])
        rank = self.fullest(_bytes(self._kept) + _left(carried) + moment.bytes)
        return self._forward_peak(rank, moment, carried), self._backward_peak(rank), self._step_peak(rank)

    def _operation(self, position: int) -> str:
        """The operation of the last event before a position of the tape."""
        event = self._run.tape.events[position - 1] if position else 0
        return self._run.tape.rows[event if event >= 0 else ~event][0]

    def _forward_peak(self, rank: Rank, moment: Moment, carried: Counter[Allocation]) -> Peak:
        state = (*self._kept, *rank.accumulated)
        throughout = _bytes(state) + _left(carried)
        return Peak(
            phase="forward",
            bytes=throughout + moment.bytes,
            throughout=throughout,
            operation=self._operation(moment.event),
            left=carried,
            deferred=Deferred(partial(self._recording.alive, moment, state, carried)),
        )

    def _backward_peak(self, rank: Rank) -> Peak:
        point = rank.point
        state = (*self._kept, *rank.backward, *self._state.reducing(point))
        return Peak(
            phase="backward",
            bytes=_bytes(state) + point.at.bytes,
            throughout=_bytes((*self._kept, *rank.backward)),
            operation=self._operation(point.at.event),
            left=Counter(),
            deferred=Deferred(partial(self._recording.alive, self._passed.moment(point.at), state)),
        )

    def _step_peak(self, rank: Rank) -> Peak:
        state = (*self._kept, *rank.step)
        size = _bytes(state) + _left(self._left)
        return Peak(
            phase="optimizer_step",
            bytes=size,
            throughout=size,
            operation=f"{self._state.optimizer.name}: step",
            left=self._left,
            deferred=Deferred(partial(LiveTensors, state, (), [*self._left.items()])),
        )


def _total(point: Fullest) -> int:
    return point[0].bytes + _bytes(point[1])
