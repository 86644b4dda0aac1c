"""One training step: the peak of each phase, and the tensors that are alive there."""

from __future__ import annotations

from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from calculator.common.cached import cached_property
from calculator.common.deferred import Deferred
from calculator.engine.live_tensors import LiveTensors, StorageCounts
from calculator.resident.tensor import ResidentTensor
from calculator.resident.tensor_group import TensorGroup
from calculator.sharding import ddp_buffers
from calculator.sharding.communication import between_nodes
from calculator.sharding.zero.offload import OffloadedState
from calculator.training_step.derived_passes import is_peak_likely_in_layers
from calculator.training_step.derived_rollout import DerivedRollout
from calculator.training_step.peak import MicroBatchRun, Peak
from calculator.training_step.rollout_bound import RolloutBound
from calculator.training_step.rollout_trace import RolloutTrace, rolled_out_in_step
from calculator.training_step.run import offloaded_bytes, recorded_run
from calculator.training_step.skipped_passes import has_any
from calculator.training_step.symbolic_trace import TraceCache
from calculator.training_step.training_context import training_context
from calculator.training_step.zero.offload import OffloadedPeaks
from calculator.training_step.zero.peaks import FlatPeaks
from calculator.training_step.zero3.peaks import PartitionedPeaks

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Iterator, Sequence

    from calculator.common.names import PhaseName
    from calculator.methods.prepared_model import PreparedModel
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.sharding.communication import Collective
    from calculator.sharding.zero.state import FlatState
    from calculator.sharding.zero3.state import PartitionedState
    from calculator.training_step.resident_state import ResidentState
    from calculator.training_step.step_pass import StepPass


class TrainingStep:
    """A training step, interpreted with the attention kernels of its device."""

    def __init__(
        self,
        resident: ResidentState,
        *,
        traces: TraceCache | None = None,
        whole: bool = False,
        every_pass: bool = False,
    ) -> None:
        self.resident = resident
        self.traces = traces or TraceCache()
        is_flat = resident.flat is not None
        #: Whether all figures are expected to be read, so that a bound saves nothing.
        self._is_read_whole = whole
        #: Whether every pass is interpreted.
        self._has_every_pass = every_pass or is_flat or (whole and not is_peak_likely_in_layers(resident.prepared))
        #: The only micro-batch of a step, or the last one.
        self.last = self._interpreted(resident.prepared, whole=whole or is_flat)
        #: The run and the recording of that micro-batch, and the position of each mark.
        self.run, self.recording = self.last.run, self.last.recording
        self.marks = self.run.copies.marks
        resident.run = self.run
        #: An earlier micro-batch. None if all are like the last one.
        self.earlier: MicroBatchRun | None = None
        if resident.differs_before_last:
            self.earlier = self._interpreted(resident.prepared, whole=whole, reduces=False)
        #: The first of several micro-batches. None if it does no more than the others.
        self.first: MicroBatchRun | None = None
        if resident.has_longer_first:
            reduces = not resident.differs_before_last
            traces = self.traces.first_batch_cache
            self.first = self._interpreted(
                resident.prepared.first_micro_batch, whole=whole, reduces=reduces, traces=traces
            )
        #: The storages that are alive when the step ends, without gradients.
        self.left = StorageCounts(self.run.storages, self.run.copies.left)
        #: The storages that the previous step left and that live until the forward pass ends. The new batch replaces
        #: the old.
        carries = resident.trainer.keeps_loss
        left_after = self.run.left_after_forward() if carries else self.run.left_until_backward()
        self.carried = StorageCounts(self.run.storages, left_after)
        #: The peaks of the ranks of a run under ZeRO's stages 1 and 2.
        self.flat = None if resident.flat is None else self._flat(resident.flat)
        #: The gathers and reductions of a run under ZeRO's stage 3.
        self.partitioned = None if resident.partitioned is None else self._partitioned(resident.partitioned)
        prepared = resident.prepared
        #: The completions that the trainer generates in a step, and the passes for requests like this one. None if it
        #: does not generate.
        self._batch = prepared.trainer.generation(prepared.training)
        self._passes = self.traces.generation_of(prepared) if self.generates else None
        #: Cached results that do not depend on the GPU, for the next request of the same step.
        self.known: dict[Hashable, Any] = {}

    def _flat(self, state: FlatState) -> FlatPeaks:
        kind = OffloadedPeaks if isinstance(state, OffloadedState) else FlatPeaks
        fetching = sum([tensor.bytes for tensor in self.resident.while_fetching])
        loop_tensors = self.resident.loop_tensors
        return kind(state, self.run, self.recording, self.left, self.carried, loop_tensors, self.first, fetching)

    def _partitioned(self, state: PartitionedState) -> PartitionedPeaks:
        return PartitionedPeaks(state, self.last, self.left, self.carried, self.resident.loop_tensors, self.first)

    def _interpreted(
        self, prepared: PreparedModel, *, whole: bool, reduces: bool = True, traces: TraceCache | None = None
    ) -> MicroBatchRun:
        context_of = partial(training_context, prepared, reduces=reduces)
        traced = partial((traces or self.traces).run_of, prepared, reduces=reduces)
        return recorded_run(context_of, traced, whole=whole, every_pass=self._has_every_pass)

    @property
    def communication(self) -> tuple[Collective, ...] | None:
        """The bytes that one GPU sends in a step, by collective. None for a run on one GPU."""
        if self.partitioned is not None:
            return between_nodes(self.partitioned.communication, self.resident.prepared.device.nodes)
        return self.resident.communication

    @cached_property
    def offloaded(self) -> int | None:
        """The bytes of pinned host memory for saved tensors of a micro-batch. None if the trainer offloads none."""
        prepared = self.resident.prepared
        return offloaded_bytes(prepared) if prepared.offloads_activations else None

    @property
    def with_every_layer(self) -> TrainingStep:
        """The same step with figures of the first layer and the peak of every pass."""
        if self._is_read_whole or (self.last.has_first_layer and not self.skips_passes):
            return self
        return TrainingStep(self.resident, traces=self.traces, whole=True)

    @property
    def with_every_pass(self) -> TrainingStep:
        """The same step with the first layer and every pass interpreted."""
        if self._is_read_whole and self.last.has_first_layer and not self.skips_passes:
            return self
        return TrainingStep(self.resident, traces=self.traces, whole=True, every_pass=True)

    @property
    def skips_passes(self) -> bool:
        """Whether no-grad passes are skipped."""
        return has_any(self.recording) or (self.first is not None and has_any(self.first.recording))

    @property
    def generates(self) -> bool:
        """Whether the trainer generates a step's completions with `generate`."""
        return self._batch is not None

    @cached_property
    def generation(self) -> tuple[StepPass, ...]:
        """The passes in which the trainer generates a step's completions. None if it does not generate.

        A pass may stand for a smaller one too (see `StepPass.smaller`).
        """
        if self._passes is None:
            return ()
        prepared = self.resident.prepared
        return self._passes.result(prepared, rolled_out_in_step, RolloutTrace) or rolled_out_in_step(prepared)

    @cached_property
    def derived_generation(self) -> DerivedRollout | None:
        """The peaks of these passes. None if there are none, or if the trained pass does not determine them."""
        return None if self._batch is None else DerivedRollout.from_run(self.run, self.resident.prepared, self._batch)

    @property
    def generation_peaks(self) -> Sequence[int]:
        """The most bytes that are alive in each of these passes, in addition to those throughout."""
        if self.derived_generation is not None:
            return self.derived_generation.peaks
        return [own.moment.bytes for step_pass in self.generation for own in step_pass.with_smaller]

    @cached_property
    def generation_bound(self) -> RolloutBound | None:
        """The upper bounds on the passes of `generate`. None without such passes, or if no bound is certain or used."""
        if self._batch is None or self._is_read_whole:
            return None
        return RolloutBound.from_run(self.run, self.resident.prepared, self._batch.prompt)

    def every_peak(self) -> tuple[Peak, ...]:
        """Return the peaks of all phases in order."""
        return self.with_generation(self.peaks())

    def with_generation(self, peaks: tuple[Peak, ...]) -> tuple[Peak, ...]:
        """Return the peaks of all phases, of which that of generation may be missing."""
        if not self.generates or peaks[0].phase == "generation":
            return peaks
        return (self._generation_peak_below(peaks) or self.peak_of_generation(), *peaks)

    def deciding_peaks(self) -> tuple[Peak, ...]:
        """Return the peaks of all phases, without that of generation if another one is certain to be higher."""
        peaks = self.peaks()
        if self._batch is None:
            return peaks
        bound = self.generation_bound
        if bound is not None:
            most = max([peak.bytes for peak in peaks])
            if bound.is_below(most - _bytes(self.resident.always, self.carried)):
                return peaks
        return self.with_generation(peaks)

    def _generation_peak_below(self, peaks: tuple[Peak, ...]) -> Peak | None:
        """Return the peak of generation if it is derived and below the highest of other peaks.

        Its operation and its tensors are not known.
        """
        if self.derived_generation is None:
            return None
        throughout = _bytes(self.resident.always, self.carried)
        size = throughout + max(self.derived_generation.peaks)
        if size >= max([peak.bytes for peak in peaks]):
            return None
        resident, traces = self.resident, self.traces
        return Peak(
            phase="generation",
            bytes=size,
            throughout=throughout,
            operation="",
            left=self.carried,
            deferred=Deferred(lambda: TrainingStep(resident, traces=traces, whole=True).peak_of_generation().alive),
        )

    def peak_of_generation(self) -> Peak:
        """Return the peak of generation. No gradients exist then."""
        highest = max(self.generation, key=lambda step_pass: step_pass.moment.bytes)
        always, carried = self.resident.always, self.carried
        if self.flat is not None:
            always = TensorGroup(self.flat.always)
        elif self.partitioned is not None:
            always = TensorGroup(self.partitioned.in_generation)
        throughout = _bytes(always, carried)
        # The step keeps its peaks. One that referred to the step would be garbage that only the collector finds.
        peak = Peak(
            phase="generation",
            bytes=throughout + highest.moment.bytes,
            throughout=throughout,
            operation=highest.operation,
            left=carried,
            deferred=Deferred(lambda: highest.recording.alive(highest.peak.moment, always, carried)),
        )
        if self.partitioned is None:
            return peak
        return max((peak, *self._before_generation(always)), key=attrgetter("bytes"))

    def _before_generation(self, always: TensorGroup) -> Iterator[Peak]:
        """Yield the peak while weights are gathered from the host, before `generate` runs. Nothing without offload."""
        if self.before_generation:
            state = TensorGroup((*always, *self.before_generation))
            yield _last("deepspeed: gather for generate", state, self.carried)._replace(phase="generation")

    @property
    def before_generation(self) -> tuple[ResidentTensors, ...]:
        """The copies of offloaded weights that are gathered for `generate`, and its prompts. None without offload."""
        copied = self.partitioned.copied_to_generate if self.partitioned is not None else ()
        prepared = self.resident.prepared
        batch = prepared.trainer.generation(prepared.training) if copied else None
        if batch is None:
            return ()
        prompts = ResidentTensor(
            name="prompt_ids, prompt_mask",
            shape=(batch.rows, batch.prompt),
            dtype="int64",
            component="activations",
            count=2,
            base=False,
        )
        return (*copied, prompts)

    def peaks(self) -> tuple[Peak, Peak, Peak]:
        """Return the peaks of the forward pass, the backward pass and the optimizer step."""
        forward, backward, optimizer = self._peaks_of_batches()
        if self.resident.while_fetching:
            forward = max(forward, self._while_fetching(), key=attrgetter("bytes"))
        if forward.is_skipped and forward.bytes >= max(backward.bytes, optimizer.bytes):
            return self.with_every_pass.peaks()
        return forward, backward, optimizer

    def _peaks_of_batches(self) -> tuple[Peak, Peak, Peak]:
        """Return these peaks once the batches of the step are fetched."""
        resident = self.resident
        if self.flat is not None:
            return self.flat.peaks()
        if self.partitioned is not None:
            return self.partitioned.peaks()
        always = resident.always
        accumulated = resident.accumulated if resident.prepared.training.gradient_accumulation_steps > 1 else always
        optimizer = _last(f"{resident.optimizer.name}: step", resident.in_step, self.left)
        if self.earlier is None:
            forward = self._peak("forward", self.last, accumulated, self.carried)
            if self.first is not None:
                before = self._peak("forward", self.first, always, self.carried)
                forward = max(forward, before, key=attrgetter("bytes"))
            elif accumulated is not always and (flat := self._while_broadcasting()) is not None:
                forward = max(forward, flat, key=attrgetter("bytes"))
            return forward, self._peak("backward", self.last, accumulated), optimizer
        forward = self._peak("forward", self.earlier, accumulated, self.carried)
        backward = max(
            self._peak("backward", self.earlier, resident.before_last(always, accumulated)),
            self._peak("backward", self.last, always),
            key=attrgetter("bytes"),
        )
        if self.first is not None:
            before = self._peak("forward", self.first, always, self.carried)
            forward = max(forward, before, key=attrgetter("bytes"))
            backward = max(backward, self._peak("backward", self.first, always), key=attrgetter("bytes"))
        return forward, backward, optimizer

    def _while_fetching(self) -> Peak:
        """Return the peak before the forward pass, when the batches of the previous step are alive too."""
        always: Iterable[ResidentTensors] = self.resident.always
        if self.flat is not None:
            always = self.flat.always
        elif self.partitioned is not None:
            always = self.partitioned.before_step
        state = TensorGroup((*always, *self.resident.while_fetching))
        return _last("batches of the step: fetched", state, self.carried)._replace(phase="forward")

    def _while_broadcasting(self) -> Peak | None:
        """Return the peak while DDP broadcasts buffers before a step's first micro-batch. No gradients exist then."""
        if not self.resident.broadcast:
            return None
        state = TensorGroup((*self.resident.always, *self.resident.broadcast))
        moment = self.recording.curve.at(self.marks[ddp_buffers.MARK])
        throughout = _bytes(state, self.carried)
        return Peak(
            phase="forward",
            bytes=throughout + moment.bytes,
            throughout=throughout,
            operation=ddp_buffers.NAME,
            left=self.carried,
            deferred=Deferred(partial(self.recording.alive, moment, state, self.carried)),
            micro_batch=self.last,
        )

    @property
    def layers(self) -> int:
        """The number of layers of the model."""
        repetition = self.run.repetition
        return len(repetition.numbers) + repetition.copies * (repetition.end - repetition.start)

    def _peak(
        self,
        phase: PhaseName,
        of: MicroBatchRun,
        state: TensorGroup,
        left: StorageCounts | None = None,
    ) -> Peak:
        marks = of.run.copies.marks
        end = marks["backward" if phase == "forward" else "end"]
        moment = of.recording.curve.peak(marks[phase], end)
        throughout = _bytes(state, left)
        if of.passes and phase == "forward":
            most = of.most_skipped_bytes(marks[phase], end)
            if most > moment.bytes:
                return self._skipped_peak(of, throughout + most, throughout, left)
        return Peak(
            phase=phase,
            bytes=throughout + moment.bytes,
            throughout=throughout,
            operation=of.recording.operation(moment.event),
            left=left,
            deferred=Deferred(partial(of.recording.alive, moment, state, left)),
            micro_batch=of,
        )

    def _skipped_peak(self, of: MicroBatchRun, size: int, throughout: int, left: StorageCounts | None) -> Peak:
        """Return the peak of a forward pass that is that of a pass that is not interpreted.

        Its tensors are those of the same step with every pass.
        """
        resident, traces = self.resident, self.traces

        def alive() -> LiveTensors:
            return TrainingStep(resident, traces=traces, whole=True, every_pass=True).peaks()[0].alive

        return Peak(
            phase="forward",
            bytes=size,
            throughout=throughout,
            operation="",
            left=left,
            deferred=Deferred(alive),
            micro_batch=of,
            is_skipped=True,
        )


def _last(operation: str, state: TensorGroup, left: StorageCounts) -> Peak:
    """Return the peak of the optimizer's step. Everything that is alive in the step counts."""
    size = _bytes(state, left)
    deferred = Deferred(partial(LiveTensors, state, left=left))
    return Peak(phase="optimizer_step", bytes=size, throughout=size, operation=operation, left=left, deferred=deferred)


def _bytes(state: TensorGroup, left: StorageCounts | None) -> int:
    return state.bytes + (0 if left is None else left.bytes)
