"""The peaks of a step under stage 3. Partitions are padded, so all ranks have the same number of bytes."""

from __future__ import annotations

from collections import Counter
from functools import cached_property, partial
from typing import TYPE_CHECKING

from calculator.common.deferred import Deferred
from calculator.common.dtype import ITEMSIZE
from calculator.engine.live_tensors import LiveTensors
from calculator.sharding.zero.state import row
from calculator.sharding.zero3.steps import Called, gathering_of
from calculator.training_step.peak import Peak
from calculator.training_step.zero3.curve import Curve
from calculator.training_step.zero3.line import line
from calculator.training_step.zero3.moments import First, PeakMoment
from calculator.training_step.zero3.optimizer import step_peak
from calculator.training_step.zero3.other_rows import other_rows
from calculator.training_step.zero3.passes import Passes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.common.names import ComponentName, PhaseName
    from calculator.engine.live_tensors import StorageCounts
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.resident.tensor import ResidentTensor
    from calculator.sharding.communication import Collective
    from calculator.sharding.zero3.state import PartitionedState
    from calculator.training_step.peak import MicroBatchRun
    from calculator.training_step.zero3.optimizer import Alive


class PartitionedPeaks:
    """The peaks of a step under stage 3.

    `left` is what the step leaves alive, without gradients. `carried` is the part of it that lives until the next
    forward pass ends. `own` are the tensors that the training loop keeps. `first` is the first of several
    micro-batches. It is None if it does no more than the others.
    """

    def __init__(
        self,
        state: PartitionedState,
        last: MicroBatchRun,
        left: StorageCounts,
        carried: StorageCounts,
        own: tuple[ResidentTensor, ...],
        first: MicroBatchRun | None = None,
    ) -> None:
        run, recording, _ = last
        self._state, self._left, self._carried = state, left, carried
        self._own, self._kept = own, (*state.resident_tensors, *own)
        self._windows = recording.windows
        #: The weights that the step gathers.
        self.gathering = gathering_of(state, _called(last), None if first is None else _called(first), run.repetition)
        self._recording, self._curve = recording, Curve(recording)
        self._first = None if first is None else First(first, Curve(first.recording), other_rows(first))
        self.passes = Passes(self.gathering, self._curve, self._first, state.sizes, state.dtype)

    def peaks(self) -> tuple[Peak, Peak, Peak]:
        """Return the peaks of the forward pass, the backward pass and the optimizer step."""
        return (
            self._peak("forward", self.passes.forward, self._carried),
            self._peak("backward", self.passes.backward, None),
            self._step_peak(),
        )

    @cached_property
    def _temporaries(self) -> Alive:
        return step_peak(self._state, self.gathering.at_step, self.gathering.kept, self.gathering.persistent)

    @property
    def blocks(self) -> tuple[ResidentTensors, ...]:
        """The most that the passes gather and reduce, and the temporaries of the optimizer's step."""
        forward, backward = self.passes.forward, self.passes.backward
        gathered = max(forward.gathered, backward.gathered, self.gathering.in_sync)
        most = PeakMoment(0, 0, gathered, max(forward.reducing, backward.reducing))
        return (*self._added(most), *self._temporaries)

    @property
    def in_generation(self) -> tuple[ResidentTensors, ...]:
        """The tensors on the device while the trainer generates, including all gathered weights."""
        return (*self._kept, *self._added(PeakMoment(0, 0, self.gathering.in_generation, 0)))

    @property
    def before_step(self) -> tuple[ResidentTensors, ...]:
        """The tensors on the device before a step, including what is gathered then."""
        return self._with_gathered(self.gathering.passes[0][0].whole.before)

    @property
    def through_step(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay through a step, including the persistent weights.

        Gathered 4-bit weights that the graph of the step before keeps are not among them. A trainer that generates has
        the persistent weights until `generate` has run, which partitions them.
        """
        gathering = self.gathering
        persistent = sum(parameter.with_padding for parameter in self._state.all_parameters if parameter.persists)
        begins = persistent if gathering.in_generation else gathering.passes[0][0].whole.before
        return self._with_gathered(min(persistent, begins))

    def _with_gathered(self, size: int) -> tuple[ResidentTensors, ...]:
        """Return what is kept, and `size` bytes of gathered weights, by component."""
        adapters = min(size, self._persistent_adapters)
        base = [self._gathered("base_weights", size - adapters)] if size > adapters else []
        return (*self._kept, *base, *([self._gathered("adapter_weights", adapters)] if adapters else []))

    @property
    def _persistent_adapters(self) -> int:
        """The bytes of persistent weights that the method has added."""
        added = {tensor.name for tensor in self._state.tensors if not tensor.base}
        persistent = [parameter for parameter in self._state.all_parameters if parameter.persists]
        return sum([parameter.with_padding for parameter in persistent if parameter.key.name in added])

    @property
    def copied_to_generate(self) -> tuple[ResidentTensors, ...]:
        """The offloaded partitions that are on the device while all weights are gathered. None without offload."""
        dtype, size = self._state.dtype, self.gathering.copied
        elements = size // ITEMSIZE[dtype]
        return (row("copies of partitions", elements, "parameters / count", dtype, "base_weights"),) if size else ()

    @property
    def sizes_in_generation(self) -> Counter[int]:
        """The number of gathered weights by size while the trainer generates. Each has a buffer of its own."""
        return Counter(parameter.with_padding for parameter in self._state.all_parameters)

    @property
    def resident_tensors(self) -> tuple[ResidentTensors, ...]:
        """The tensors that stay on the device in addition to the model's frozen tensors."""
        return (*self._state.divided, *self._own)

    @property
    def communication(self) -> tuple[Collective, ...]:
        """The collectives of a step."""
        return self._state.communication(self.gathering.sent)

    def line(self, spans: Sequence[tuple[int, int]], *, backward: bool) -> list[int]:
        """Return the peak of each span of a pass. Spans of repeated layers have one peak per copy."""
        rest = sum([tensor.bytes for tensor in self._kept]) + (0 if backward else self._carried.bytes)
        return [rest + size for size in line(self._passes_with_moments, spans, self._windows, backward=backward)]

    @cached_property
    def _passes_with_moments(self) -> Passes:
        """The passes with all of their moments."""
        state = self._state
        return Passes(self.gathering, self._curve, self._first, state.sizes, state.dtype, keeps_moments=True)

    @property
    def host_bytes(self) -> int | None:
        """The bytes of host memory that a rank uses. None without offload."""
        return self._state.host_bytes

    def _added(self, moment: PeakMoment) -> Iterator[ResidentTensor]:
        """Yield the tensors that are gathered and reduced at a moment."""
        dtype = self._state.dtype
        if moment.gathered:
            yield self._gathered("base_weights", moment.gathered)
        if moment.reducing:
            yield row("gradients that are reduced", moment.reducing // ITEMSIZE[dtype], "gradients", dtype, "gradients")

    def _gathered(self, component: ComponentName, size: int) -> ResidentTensor:
        """Return gathered weights of some bytes."""
        dtype = self._state.dtype
        return row("gathered weights", size // ITEMSIZE[dtype], "gathered parameters", dtype, component)

    def _peak(self, phase: PhaseName, moment: PeakMoment, carried: StorageCounts | None) -> Peak:
        kept, recording, curve = self._kept, self._recording, self._curve
        if moment.in_first and self._first is not None:
            recording, curve = self._first.batch.recording, self._first.curve
        state: Sequence[ResidentTensors] = (*kept, *self._added(moment))
        rest = sum([tensor.bytes for tensor in kept]) + (0 if carried is None else carried.bytes)
        return Peak(
            phase=phase,
            bytes=rest + moment.bytes,
            throughout=rest,
            operation=recording.operation(curve.last_event(moment)),
            left=carried,
            deferred=Deferred(partial(curve.alive, moment, state, carried)),
        )

    def _step_peak(self) -> Peak:
        state = (*self._kept, *self._temporaries)
        size = sum([tensor.bytes for tensor in state]) + self._left.bytes
        return Peak(
            phase="optimizer_step",
            bytes=size,
            throughout=size,
            operation=f"{self._state.optimizer.name}: step",
            left=self._left,
            deferred=Deferred(partial(LiveTensors, state, left=self._left)),
        )


def _called(batch: MicroBatchRun) -> Called:
    return Called(batch.run.tape, batch.run.copies.windows)
