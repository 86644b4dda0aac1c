"""The peaks of a step under stages 1 and 2, on each rank and on the peak rank: the rank with the highest peak."""

from __future__ import annotations

from functools import cached_property, partial
from itertools import pairwise
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.deferred import Deferred
from calculator.engine.live_tensors import LiveTensors
from calculator.sharding.zero.backward import BackwardPass
from calculator.sharding.zero.plan import Point
from calculator.sharding.zero.reduction import Large, Reduction
from calculator.training_step.peak import MicroBatchRun, Peak
from calculator.training_step.zero.optimizer import OptimizerStep

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Sequence

    from calculator.common.names import PhaseName
    from calculator.engine.live_tensors import StorageCounts
    from calculator.engine.memory_curve import Moment
    from calculator.engine.recording import Recording
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.zero.state import FlatState
    from calculator.training_step.run import Run


#: The phases of a step.
PHASES: tuple[PhaseName, ...] = ("forward", "backward", "optimizer_step")


class Rank(NamedTuple):
    """One rank's tensors in the passes and in the optimizer's step, in addition to what stays on every rank.

    `accumulated` are the tensors that earlier micro-batches of the step left. `point` is the peak point of the
    backward pass, and `backward` are the tensors there. `peaks` are the bytes of the peak in each of PHASES.
    """

    number: int
    accumulated: tuple[ResidentTensors, ...]
    backward: tuple[ResidentTensors, ...]
    point: Point
    step: tuple[ResidentTensors, ...]
    peaks: tuple[int, int, int]


class _Alive(NamedTuple):
    """Tensors and their bytes."""

    tensors: tuple[ResidentTensors, ...]
    bytes: int

    @classmethod
    def total(cls, tensors: tuple[ResidentTensors, ...]) -> _Alive:
        """Add up the bytes of tensors."""
        return cls(tensors, _bytes(tensors))


class _Share(NamedTuple):
    """The tensors of a rank that follow from the parameters that it owns.

    Attributes:
        accumulated: The tensors that earlier micro-batches of the step left for the forward pass.
        forward: The bytes of the peak moment of the forward pass.
        earlier: The tensors that earlier micro-batches left for the backward pass.
        own: The gradients of its partition.
        reduced: The gradients after the last reduction.
        step: The tensors at the peak moment of the optimizer's step.
    """

    accumulated: tuple[ResidentTensors, ...]
    forward: int
    earlier: _Alive
    own: _Alive
    reduced: _Alive
    step: _Alive


class _ForwardPass(NamedTuple):
    """The peak moment of a forward pass, and the gradients that earlier micro-batches left."""

    recording: Recording
    moment: Moment
    accumulated: tuple[ResidentTensors, ...] = ()

    @classmethod
    def from_micro_batch(cls, micro_batch: MicroBatchRun) -> _ForwardPass:
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


#: The bytes at a rank's peak point in the backward pass, the point, and the gradients of its partition there.
PeakPoint = tuple[int, Point, tuple["ResidentTensors", ...]]


def _bytes(tensors: Sequence[ResidentTensors]) -> int:
    return sum([tensor.bytes for tensor in tensors])


_SIZE = attrgetter("bytes")
_NOTHING = _Alive((), 0)


class FlatPeaks:
    """The peaks of a step on each rank, and on the peak rank.

    `left` is what the step leaves alive, without gradients. `carried` is the part of it that lives until the next
    forward pass ends. `own` are the tensors that the training loop keeps. `first` is the first of several
    micro-batches. It is None if it does no more than the others. `fetching` are the bytes of the tensors that are alive
    only while the batches of the step are fetched.
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
        fetching: int = 0,
    ) -> None:
        self._fetching = fetching
        self._state, self._run, self._recording = state, run, recording
        self._left, self._carried, self._own = left, carried, own
        self._kept = (*state.resident_tensors, *own)
        self._shares: dict[Hashable, _Share] = {}
        self._passed = BackwardPass(run.tape, run.repetition, recording)
        self._reduction = Reduction(state.plan).run(self._passed)
        #: By rank, the large gradients that other ranks keep to the end, and that it frees.
        self._large: dict[int, list[Large]] = {}
        for gradient in self._reduction.kept_large:
            for number in gradient.ranks:
                self._large.setdefault(number, []).append(gradient)
        self._peak_points: dict[tuple[Hashable, ...], PeakPoint] = {}
        self._earlier = None if state.earlier_plan is None else Reduction(state.earlier_plan).earlier(self._passed)
        self._forward = _ForwardPass.from_micro_batch(MicroBatchRun(run, recording))
        self._first = _ForwardPass.from_micro_batch(first) if first is not None else None

    def _rank(self, number: int) -> Rank:
        """Return the memory of one rank."""
        share = self._share(number)
        most, point, added = self._peak_point(number, share)
        peaks = share.forward, self._always[1] + share.earlier.bytes + most, self._always[2] + share.step.bytes
        return Rank(number, share.accumulated, (*share.earlier.tensors, *added), point, share.step.tensors, peaks)

    def _share(self, number: int) -> _Share:
        """Return the figures of a rank that equal ranks share, from the first of them."""
        alike = self._equivalence_key(number)
        if alike not in self._shares:
            state = self._state
            (own, _), accumulated = state.gradients_of(number), state.accumulated_by(number)
            self._shares[alike] = _Share(
                accumulated,
                self._always[0] + max(self._peak_forward(accumulated).bytes, self._fetching),
                _Alive.total(state.partition_of_earlier(number)),
                _Alive.total(own),
                _Alive.total(state.reduced_on(number)),
                _Alive.total(self._step_of(number, own)),
            )
        return self._shares[alike]

    def _equivalence_key(self, number: int) -> Hashable:
        """Return the key of a rank's share: ranks with equal keys have equal shares."""
        return self._state.equivalence_keys[number]

    def _step_of(self, number: int, gradients: tuple[ResidentTensor, ...]) -> tuple[ResidentTensors, ...]:
        """Return the live tensors of a rank at the peak moment of the optimizer's step."""
        steps, alike = self._state.steps, self._equivalence_key(number)
        if alike not in steps:
            steps[alike] = OptimizerStep(self._state, number, gradients).at_peak
        return steps[alike]

    def _peak_point(self, number: int, share: _Share) -> PeakPoint:
        """Return the peak point of a rank in the backward pass, the first one if several are equal.

        Ranks that are equal have the same one if the peak points before and after they get their buffers are.
        """
        reduction = self._reduction
        first = reduction.reduced.get(number, len(reduction.intervals) - 1)
        large = self._large.get(number)
        if large is not None:
            return self._highest_point([*self._between_large(large, first, share.own)], large, share)
        before, after = reduction.most_before(first), reduction.most_from(first + 1)
        key = id(share), id(before), id(after)
        if key not in self._peak_points:
            points = [(before, _NOTHING)] if after is None else [(before, _NOTHING), (after, share.own)]
            self._peak_points[key] = self._highest_point(points, [], share)
        return self._peak_points[key]

    def _highest_point(self, points: list[tuple[Point, _Alive]], large: list[Large], share: _Share) -> PeakPoint:
        """Return the peak point of some points, of an earlier micro-batch, and of the end of the backward pass."""
        earlier = [] if self._earlier is None else [(self._earlier.intervals[0], _NOTHING)]
        every = (*earlier, *points, (self._after_reductions(large), share.reduced))
        candidates = [(point.bytes + alive.bytes, point, alive.tensors) for point, alive in every]
        return max(candidates, key=itemgetter(0))

    def _between_large(self, large: list[Large], first: int, own: _Alive) -> Iterator[tuple[Point, _Alive]]:
        """Yield the peak point of each time between two of which the rank frees a large gradient."""
        intervals = self._reduction.intervals
        cuts = sorted({0, first + 1, len(intervals), *(gradient.interval + 1 for gradient in large)})
        for start, end in pairwise(cuts):
            freed = sum(gradient.bytes for gradient in large if gradient.interval < start)
            yield max(intervals[start:end], key=_SIZE).without(freed), own if start > first else _NOTHING

    def _after_reductions(self, large: list[Large]) -> Point:
        """Return the moment after the last reduction, before the bucket is freed, without large gradients."""
        return (
            self._done_by_others.without(sum([gradient.bytes for gradient in large])) if large else self._done_by_others
        )

    @cached_property
    def _done_by_others(self) -> Point:
        """The moment after the last reduction on a rank that owns no part of the gradients that others keep."""
        at, bucket, left = self._passed.end, self._state.plan.bucket_bytes, self._reduction.large_bytes_at_end
        return Point(at.bytes + bucket + left, at, has_bucket=True, large=left, separate=0, copied=0)

    @cached_property
    def ranks(self) -> list[Rank]:
        """The memory of each rank."""
        return [*map(self._rank, range(self._state.partitions.count))]

    @cached_property
    def _always(self) -> tuple[int, int, int]:
        """The bytes that every rank has: in the forward pass, in the backward pass, and in the optimizer's step."""
        shared = _bytes(self._kept)
        return shared + self._carried.bytes, shared, shared + self._left.bytes

    def phases_of(self, rank: Rank) -> dict[PhaseName, int]:
        """Return a rank's peak in each phase."""
        return dict(zip(PHASES, rank.peaks, strict=True))

    def peak_of(self, rank: Rank) -> int:
        """Return a rank's highest peak."""
        return max(rank.peaks)

    @cached_property
    def _highest_peaks(self) -> list[int]:
        """Each rank's highest peak."""
        return [max(rank.peaks) for rank in self.ranks]

    @cached_property
    def peak_rank(self) -> Rank:
        """The rank with the highest peak, the first one if several have it."""
        return self.ranks[self._highest_peaks.index(max(self._highest_peaks))]

    @property
    def spread(self) -> int:
        """The bytes by which the highest peaks of the ranks differ."""
        return max(self._highest_peaks) - min(self._highest_peaks)

    def peaks(self) -> tuple[Peak, Peak, Peak]:
        """Return the peaks of the forward pass, the backward pass and the optimizer step of the peak rank."""
        rank = self.peak_rank
        return self._forward_peak(rank), self._backward_peak(rank), self._step_peak(rank)

    @property
    def always(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device throughout the run."""
        return self._kept

    @property
    def resident_tensors(self) -> tuple[ResidentTensors, ...]:
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
        """The tensors of the peak rank in the backward pass, in addition to what it keeps and the pass itself."""
        point, intervals = self.peak_rank.point, self._reduction.intervals
        copied, large, separate = (max(map(attrgetter(name), intervals)) for name in ("copied", "large", "separate"))
        most = point._replace(has_bucket=True, copied=copied, large=large, separate=separate)
        gradients, zeros = self._state.gradients_of(self.peak_rank.number)
        earlier = self._state.partition_of_earlier(self.peak_rank.number)
        return (*gradients, *zeros, *earlier, *self._state.reducing(most))

    def line(self) -> list[int]:
        """Return the peak in each part of the backward pass (head, layers, code before) on the peak rank."""
        number = self.peak_rank.number
        gradient_bytes = _bytes(self._state.gradients_of(number)[0])
        first = self._reduction.reduced.get(number, 0)
        freed = {gradient.interval: gradient.bytes for gradient in self._large.get(number, [])}
        shared = _bytes((*self._kept, *self._state.partition_of_earlier(number)))
        line = [
            max(
                size + (gradient_bytes if at > first else 0) - sum(freed[end] for end in freed if end < at)
                for at, size in points
            )
            for points in self._line
        ]
        if self._earlier is not None:
            line = [
                max(most, *(size for _, size in points)) for most, points in zip(line, self._earlier_line, strict=True)
            ]
        line[-1] = max(
            line[-1], self._after_reductions(self._large.get(number, [])).bytes + _bytes(self._state.reduced_on(number))
        )
        return [shared + most for most in line]

    @cached_property
    def _line(self) -> list[list[tuple[int, int]]]:
        """The interval and the bytes of every point of the last micro-batch, in each part of the backward pass."""
        return Reduction(self._state.plan, keeps_line=True).run(self._passed).line

    @cached_property
    def _earlier_line(self) -> list[list[tuple[int, int]]]:
        """The interval and the bytes of every point of an earlier micro-batch, in each part of the backward pass."""
        earlier = self._state.earlier_plan
        return [] if earlier is None else Reduction(earlier, keeps_line=True).earlier(self._passed).line

    def _operation(self, position: int) -> str:
        """Return the name of the row of the last event before a position of the tape."""
        return self._recording.operation(position)

    def _peak_forward(self, accumulated: tuple[ResidentTensors, ...]) -> _ForwardPass:
        """Return the forward pass with the highest peak: the last, with what earlier ones left, or the first."""
        last = self._forward.with_accumulated(accumulated)
        return last if self._first is None else max(last, self._first, key=_SIZE)

    def _forward_peak(self, rank: Rank) -> Peak:
        peak, carried = self._peak_forward(rank.accumulated), self._carried
        state = (*self._kept, *peak.accumulated)
        throughout = _bytes(state) + carried.bytes
        return Peak(
            phase="forward",
            bytes=throughout + peak.moment.bytes,
            throughout=throughout,
            operation=peak.recording.operation(peak.moment.event),
            left=carried,
            deferred=Deferred(partial(peak.recording.alive, peak.moment, state, carried)),
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
