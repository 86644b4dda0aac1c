"""The peaks of a step under stages 1 and 2, on each rank and on the fullest one."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import pairwise
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred
from calculator.engine.live_tensors import LiveTensors
from calculator.sharding.zero.backward import BackwardPass
from calculator.sharding.zero.plan import Point
from calculator.sharding.zero.reduction import Reduction
from calculator.training_step.peak import MicroBatchRun, Peak
from calculator.training_step.zero.optimizer import OptimizerStep

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.common.names import PhaseName
    from calculator.engine.live_tensors import StorageCounts
    from calculator.engine.memory_curve import Moment
    from calculator.engine.recording import Recording
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensors import ResidentTensor
    from calculator.sharding.zero.state import FlatState
    from calculator.training_step.run import Run


class Rank(NamedTuple):
    """One rank's tensors in the passes and in the optimizer's step, in addition to what stays on every rank.

    `accumulated` are the tensors that earlier micro-batches of the step left. `point` is the fullest point of the
    backward pass, and `backward` are the tensors there.
    """

    number: int
    accumulated: tuple[ResidentTensors, ...]
    backward: tuple[ResidentTensors, ...]
    point: Point
    step: tuple[ResidentTensors, ...]


class _ForwardPass(NamedTuple):
    """The fullest moment of a forward pass, and the gradients that earlier micro-batches left."""

    recording: Recording
    moment: Moment
    accumulated: tuple[ResidentTensors, ...] = ()

    @classmethod
    def of(cls, micro_batch: MicroBatchRun) -> _ForwardPass:
        """Return the forward pass of a micro-batch that is the first of its step."""
        marks = micro_batch.marks
        return cls(micro_batch.recording, micro_batch.recording.curve.peak(marks["forward"], marks["backward"]))

    def with_accumulated(self, accumulated: tuple[ResidentTensors, ...]) -> _ForwardPass:
        """Return the same pass after earlier micro-batches."""
        return self._replace(accumulated=accumulated)

    @property
    def bytes(self) -> int:
        """The bytes at that moment, including the gradients."""
        return self.moment.bytes + _bytes(self.accumulated)


#: A rank's fullest point in the backward pass, with the gradients of its partition there.
Fullest = tuple[Point, tuple["ResidentTensors", ...]]


def _bytes(tensors: Sequence[ResidentTensors]) -> int:
    return sum([tensor.bytes for tensor in tensors])


_SIZE = attrgetter("bytes")


class FlatPeaks:
    """The peaks of a step on each rank, and on the fullest rank.

    `left` is what the step leaves alive, without gradients. `carried` is the part of it that lives until the next
    forward pass ends. `own` are the tensors that the training loop keeps. `first` is the first of several
    micro-batches. It is None if it does no more than the others.
    """

    def __init__(
        self,
        state: FlatState,
        run: Run,
        recording: Recording,
        left: StorageCounts,
        carried: StorageCounts,
        own: tuple[ResidentTensor, ...],
        first: MicroBatchRun | None = None,
    ) -> None:
        self._state, self._run, self._recording = state, run, recording
        self._left, self._carried, self._own = left, carried, own
        self._kept = (*state.kept, *own)
        self._passed = BackwardPass(run.tape, run.repetition, recording)
        self._reduction = Reduction(state.plan).run(self._passed)
        earlier = state.earlier_plan
        self._earlier = Reduction(earlier).earlier(self._passed) if earlier is not None else None
        self._forward = _ForwardPass.of(MicroBatchRun(run, recording))
        self._first = _ForwardPass.of(first) if first is not None else None

    def rank(self, number: int) -> Rank:
        """Return the memory of one rank."""
        state = self._state
        own, _ = state.gradients_of(number)
        step = self._step_of(number, own)
        point, added = max(self._candidates(number, own), key=_total)
        return Rank(number, state.accumulated_by(number), (*state.partition_of_earlier(number), *added), point, step)

    def _step_of(self, number: int, gradients: tuple[ResidentTensor, ...]) -> tuple[ResidentTensors, ...]:
        """Return the live tensors of a rank at the fullest moment of the optimizer's step."""
        steps = self._state.steps
        if number not in steps:
            steps[number] = OptimizerStep(self._state, number, gradients).fullest
        return steps[number]

    def _candidates(self, number: int, own: tuple[ResidentTensor, ...]) -> Iterator[Fullest]:
        """Yield the points at which a rank may have the most bytes.

        Each comes with the gradients of the rank's partition that are alive.
        """
        intervals = self._reduction.intervals
        first = self._reduction.reduced.get(number, len(intervals) - 1)
        if self._earlier is not None:
            yield self._earlier.intervals[0], ()
        large = [each for each in self._reduction.kept if number in each.ranks]
        if not large:
            yield self._reduction.most_before[first], ()
            if first + 1 < len(intervals):
                yield self._reduction.most_from[first + 1], own
            yield self._done(number), self._state.reduced_on(number)
            return
        cuts = sorted({0, first + 1, len(intervals), *(each.interval + 1 for each in large)})
        for start, end in pairwise(cuts):
            freed = sum(each.bytes for each in large if each.interval < start)
            yield max(intervals[start:end], key=_SIZE).without(freed), own if start > first else ()
        yield self._done(number), self._state.reduced_on(number)

    def _done(self, number: int) -> Point:
        """Return the moment after the last reduction, before the bucket is freed."""
        kept = sum([each.bytes for each in self._reduction.kept if number in each.ranks])
        return self._done_by_others.without(kept) if kept else self._done_by_others

    @cached_property
    def _done_by_others(self) -> Point:
        """The moment after the last reduction on a rank that owns no part of the gradients that others keep."""
        at, bucket, left = self._passed.end, self._state.plan.bucket_bytes, self._reduction.left
        return Point(at.bytes + bucket + left, at, has_bucket=True, large=left, separate=0, copied=0)

    @cached_property
    def ranks(self) -> list[Rank]:
        """The memory of each rank."""
        return [*map(self.rank, range(self._state.partitions.count))]

    @cached_property
    def _always(self) -> tuple[int, int, int]:
        """The bytes that every rank has: in the forward pass, in the backward pass, and in the optimizer's step."""
        shared = _bytes(self._kept)
        return shared + self._carried.bytes, shared, shared + self._left.bytes

    def phases_of(self, rank: Rank) -> dict[PhaseName, int]:
        """Return a rank's peak in each phase."""
        forward, backward, step = self._always
        return {
            "forward": forward + self._fullest_forward(rank).bytes,
            "backward": backward + rank.point.bytes + _bytes(rank.backward),
            "optimizer_step": step + _bytes(rank.step),
        }

    def peak_of(self, rank: Rank) -> int:
        """Return a rank's highest peak."""
        return max(self.phases_of(rank).values())

    @cached_property
    def _highest(self) -> list[int]:
        """Each rank's highest peak."""
        return [*map(self.peak_of, self.ranks)]

    @cached_property
    def fullest(self) -> Rank:
        """The rank with the highest peak, the first one if several have it."""
        return self.ranks[self._highest.index(max(self._highest))]

    @property
    def spread(self) -> int:
        """The bytes by which the highest peaks of the ranks differ."""
        return max(self._highest) - min(self._highest)

    def peaks(self) -> tuple[Peak, Peak, Peak]:
        """Return the peaks of the forward pass, the backward pass and the optimizer step of the fullest rank."""
        rank = self.fullest
        return self._forward_peak(rank), self._backward_peak(rank), self._step_peak(rank)

    @property
    def always(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device throughout the run."""
        return self._kept

    @property
    def kept(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device in addition to the model's frozen tensors."""
        return (*self._state.divided, *self._own)

    @property
    def host_bytes(self) -> int | None:
        """The bytes of host memory that a rank uses. None without offload."""
        return self._state.host_bytes

    @property
    def flat_weights(self) -> list[ResidentTensor]:
        """The flat tensors of the trained weights."""
        return self._state.flat_weights

    @property
    def in_backward(self) -> tuple[ResidentTensors, ...]:
        """The tensors of the fullest rank in the backward pass, in addition to what it keeps and the pass itself."""
        point, intervals = self.fullest.point, self._reduction.intervals
        copied = max([each.copied for each in intervals])
        large = max([each.large for each in intervals])
        separate = max([each.separate for each in intervals])
        most = point._replace(has_bucket=True, copied=copied, large=large, separate=separate)
        own, zeros = self._state.gradients_of(self.fullest.number)
        earlier = self._state.partition_of_earlier(self.fullest.number)
        return (*own, *zeros, *earlier, *self._state.reducing(most))

    def line(self) -> list[int]:
        """Return the fullest rank's peak in each part of the backward pass: head, layers, code before layers."""
        number = self.fullest.number
        own = _bytes(self._state.gradients_of(number)[0])
        first = self._reduction.reduced.get(number, 0)
        freed = {each.interval: each.bytes for each in self._reduction.kept if number in each.ranks}
        shared = _bytes((*self._kept, *self._state.partition_of_earlier(number)))
        line = [
            max(size + (own if at > first else 0) - sum(freed[end] for end in freed if end < at) for at, size in points)
            for points in self._reduction.line
        ]
        if self._earlier is not None:
            line = [
                max(most, *(size for _, size in points)) for most, points in zip(line, self._earlier.line, strict=True)
            ]
        line[-1] = max(line[-1], self._done(number).bytes + _bytes(self._state.reduced_on(number)))
        return [shared + most for most in line]

    def _operation(self, position: int) -> str:
        """Return the name of the row of the last event before a position of the tape."""
        return self._recording.operation(position)

    def _fullest_forward(self, rank: Rank) -> _ForwardPass:
        """Return the fullest forward pass of a step: the last, with what earlier micro-batches left, or the first."""
        last = self._forward.with_accumulated(rank.accumulated)
        return last if self._first is None else max(last, self._first, key=_SIZE)

    def _forward_peak(self, rank: Rank) -> Peak:
        found, carried = self._fullest_forward(rank), self._carried
        state = (*self._kept, *found.accumulated)
        throughout = _bytes(state) + carried.bytes
        return Peak(
            phase="forward",
            bytes=throughout + found.moment.bytes,
            throughout=throughout,
            operation=found.recording.operation(found.moment.event),
            left=carried,
            deferred=Deferred(partial(found.recording.alive, found.moment, state, carried)),
        )

    def _backward_peak(self, rank: Rank) -> Peak:
        point = rank.point
        state = (*self._kept, *rank.backward, *self._state.reducing(point))
        return Peak(
            phase="backward",
            bytes=_bytes(state) + point.at.bytes,
            throughout=_bytes((*self._kept, *rank.backward)),
            operation=self._operation(point.at.event),
            left=None,
            deferred=Deferred(partial(self._passed.alive, point.at, state)),
        )

    def _step_peak(self, rank: Rank) -> Peak:
        state = (*self._kept, *rank.step)
        size = _bytes(state) + self._left.bytes
        return Peak(
            phase="optimizer_step",
            bytes=size,
            throughout=size,
            operation=f"{self._state.optimizer.name}: step",
            left=self._left,
            deferred=Deferred(partial(LiveTensors, state, left=self._left)),
        )


def _total(point: Fullest) -> int:
    return point[0].bytes + _bytes(point[1])
