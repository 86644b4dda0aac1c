"""A run whose micro-batches differ in length, replayed step by step through PyTorch's caching allocator.

The segments of short micro-batches are cached when a longer one comes. Where none of them is large enough for its
tensors, segments are added. So what is reserved depends on the order of the lengths.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.loading import Loading, one_by_one
from calculator.allocator.machines import ConfiguredMachine, FlatMachine
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.replay import PASSES, WORKSPACE
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT
from calculator.devices.outcome import OutOfMemory
from calculator.training_step.batch_trace import BatchTraces

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.machines import Machine, Placed
    from calculator.allocator.out_of_memory import DeviceMemory
    from calculator.devices.outcome import ReplayPhase
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.training_step.batch_trace import Program
    from calculator.training_step.resident_state import ResidentState


class Padded(NamedTuple):
    """A micro-batch: the length that its sequences are padded to, and whether any of them is shorter."""

    length: int
    padding: bool


#: The micro-batches of a step.
Step = tuple[Padded, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyCache:
    """A run that empties its cache in every `steps`-th step.

    It does so after each forward pass of the first step, and every `steps` later; or else at the end of those steps,
    the first of which is number `steps`.
    """

    steps: int
    after_forward: bool

    def in_step(self, step: int) -> bool:
        """Whether a step empties the cache; the first step is 0."""
        return (step if self.after_forward else step + 1) % self.steps == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryResult:
    """What a run reserves.

    Attributes:
        reserved: The most bytes that are reserved in each step.
        retries: How often cached blocks are freed for a request: in the load, and in each step.
        out_of_memory: Where the run ends, if it does not reach its last step.
    """

    reserved: tuple[int, ...]
    retries: tuple[int, ...]
    out_of_memory: OutOfMemory | None

    @property
    def peak_reserved_bytes(self) -> int:
        """What `torch.cuda.max_memory_reserved` reads at the end."""
        return max(self.reserved)

    @property
    def peak_step(self) -> int:
        """The first step that reserves the most, from 1."""
        return self.reserved.index(self.peak_reserved_bytes) + 1


class HistoryRun:
    """What all histories of a run share: the load, the optimizer's tensors, and the micro-batches by shape."""

    def __init__(self, resident: ResidentState, workspaces: tuple[int, int]) -> None:
        self.workspaces = workspaces
        self.loading = Loading(resident.tensors, resident.prepared.training)
        self.states = _each(resident.optimizer_states)
        self.temporaries = _each(resident.step_temporaries)
        self._prepared = resident.prepared
        self._traces: dict[tuple[bool, bool], BatchTraces] = {}

    def micro_batch(self, batch: Padded, *, later: bool) -> tuple[Program, list[int]]:
        """The events of a micro-batch, and its rows' bytes. A `later` one of a step adds to gradients."""
        key = batch.padding, later
        if key not in self._traces:
            training = replace(self._prepared.training, padding=batch.padding)
            if not later:
                training = replace(training, gradient_accumulation_steps=1)
            self._traces[key] = BatchTraces(self._prepared.for_run(training, self._prepared.device))
        return self._traces[key].sized(batch.length)

    def replay(
        self,
        steps: Sequence[Step],
        *,
        empty_cache: EmptyCache | None = None,
        device: DeviceMemory | None = None,
        conf: AllocConf = DEFAULT,
    ) -> HistoryResult:
        """Replay the load and some steps, without a limit or on a device."""
        machine: Machine
        machine = FlatMachine(self._units(steps), device) if conf == DEFAULT else ConfiguredMachine(conf, device)
        replay = _Replay(self, machine, empty_cache)
        reserved: list[int] = []
        retries: list[int] = []
        end = None
        try:
            replay.load(device.total if device is not None else None)
            retries.append(machine.retries)
            for step in steps:
                replay.step(step)
                reserved.append(machine.most_reserved())
                retries.append(machine.retries - sum(retries))
        except OutOfMemoryError as error:
            assert device is not None
            reserved.append(machine.most_reserved())
            retries.append(machine.retries - sum(retries))
            end = replay.end(error, device)
        return HistoryResult(reserved=tuple(reserved), retries=tuple(retries), out_of_memory=end)

    def _units(self, steps: Sequence[Step]) -> int:
        """More than all segments that the steps can request, in units of 512 bytes."""
        longest = max(batch for step in steps for batch in step)
        sizes = [*self.loading.sizes, *self.workspaces]
        sizes += (size for _, size in (*self.states, *self.temporaries))
        sizes += self.micro_batch(longest, later=True)[1] * max(map(len, steps))
        return (sum(sizes) + len(sizes) * LARGE_SEGMENT) // BLOCK * (len(steps) + 1)


def _each(resident: Iterable[ResidentTensors]) -> list[tuple[str, int]]:
    return [(tensor.name, tensor.bytes // tensor.count) for tensor in one_by_one(resident)]


class _Replay:
    """A history on a machine."""

    def __init__(self, run: HistoryRun, machine: Machine, empty_cache: EmptyCache | None) -> None:
        self._run = run
        self._machine = machine
        self._empty_cache = empty_cache
        self._steps = 0
        self._phase: ReplayPhase = "load"
        self._left: list[Placed] = []
        self._gradients: list[Placed] = []

    def load(self, total: int | None) -> None:
        """Load the model onto a device of a size."""
        loading = self._run.loading
        sizes, events = loading.on(total)
        self._machine.begin(sizes, loading.names.__getitem__)
        self._machine.play(events)

    def step(self, step: Step) -> None:
        """Set gradients to None, run the micro-batches, clip, and run the optimizer's step."""
        machine, empties = self._machine, self._empty_cache
        if empties is not None and not empties.in_step(self._steps):
            empties = None
        machine.free(self._gradients)
        for number, batch in enumerate(step):
            program, sizes = self._run.micro_batch(batch, later=number > 0)
            self._micro_batch(program, sizes, empties=empties is not None and empties.after_forward)
            if not number:
                self._gradients = machine.placed(program.gradients)
        self._optimizer_step()
        if empties is not None and not empties.after_forward:
            machine.empty_cache()
        self._steps += 1

    def end(self, error: OutOfMemoryError, device: DeviceMemory) -> OutOfMemory:
        """Where the run is when a request fails."""
        return OutOfMemory(
            step=self._steps + 1 if self._phase != "load" else 0,
            phase=self._phase,
            tensor=error.tensor,
            requested_bytes=error.requested,
            message=error.message(device),
        )

    def _micro_batch(self, program: Program, sizes: list[int], *, empties: bool) -> None:
        """Forward and backward. The old loss and its graph are freed when the new loss is assigned to the same name.

        The first micro-batch allocates the workspaces too.
        """
        machine, names, count = self._machine, program.names, len(sizes)
        first = not self._steps and not self._gradients
        machine.begin(
            [*sizes, *self._run.workspaces] if first else sizes, lambda row: names[row] if row < count else WORKSPACE
        )
        for number, (events, start) in enumerate(zip(program.passes, program.products, strict=True)):
            self._phase = PASSES[number]
            machine.play([*events[:start], count + number, *events[start:]] if first else events)
            if not number:
                machine.free(self._left)
                if empties:
                    machine.empty_cache()
        self._left = machine.placed(program.left)

    def _optimizer_step(self) -> None:
        self._phase = "optimizer_step"
        run = self._run
        if not self._steps:
            self._play_together(run.states)
        freed = self._play_together(run.temporaries)
        self._machine.play([~row for row in freed])

    def _play_together(self, tensors: list[tuple[str, int]]) -> range:
        rows = range(len(tensors))
        self._machine.begin([size for _, size in tensors], lambda row: tensors[row][0])
        self._machine.play(rows)
        return rows
