"""A run whose micro-batches differ in length, replayed step by step through PyTorch's caching allocator.

When a long micro-batch follows short ones, the segments of the short ones are cached. If none of them is large enough
for its tensors, segments are added. So the reserved memory depends on the order of the lengths.
"""

from __future__ import annotations

from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.replay import PASSES, WORKSPACE
from calculator.common.budget import check_budget
from calculator.devices.outcome import OutOfMemory
from calculator.sharding import ddp
from calculator.training_step.step_batches import same_gradients

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.allocator.history_run import HistoryRun
    from calculator.allocator.machines import FlatMachine, Machine, Placed
    from calculator.allocator.out_of_memory import DeviceMemory
    from calculator.allocator.played_steps import PlayedSteps
    from calculator.devices.outcome import ReplayPhase
    from calculator.training_step.batch_trace import Program


class Padded(NamedTuple):
    """A micro-batch, given by the length that its sequences are padded to, and by whether any of them is shorter."""

    length: int
    padding: bool


#: The micro-batches of a step.
Step = tuple[Padded, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyCache:
    """A run that empties its cache in every `steps`-th step.

    With `after_forward`, it does so after each forward pass of the first step and of every `steps`-th step after that.
    Otherwise, it does so at the end of the step with number `steps` and of every `steps`-th step after that.
    """

    steps: int
    after_forward: bool

    def in_step(self, step: int) -> bool:
        """Return whether a step empties the cache. The first step is 0."""
        return (step if self.after_forward else step + 1) % self.steps == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryResult:
    """The memory that a run reserves.

    Attributes:
        reserved: The most bytes that are reserved in each step.
        retries: How often cached blocks are freed for a request, in the load and in each step.
        out_of_memory: Where the run fails. None if it reaches its last step.
    """

    reserved: tuple[int, ...]
    retries: tuple[int, ...]
    out_of_memory: OutOfMemory | None

    @property
    def peak_reserved_bytes(self) -> int:
        """The value of `torch.cuda.max_memory_reserved` at the end."""
        return max(self.reserved)

    @property
    def peak_step(self) -> int:
        """The first step that reserves the most. Steps count from 1."""
        return self.reserved.index(self.peak_reserved_bytes) + 1


class History:
    """A run's history on a machine.

    Attributes:
        run: The state that the histories of the run share.
        machine: The allocator.
        loaded: The most bytes that are reserved during the load.
        empty_cache: The steps that empty the cache, if any do.
        steps: The number of steps that have ended.
        reserved: The most bytes that are reserved in each of these steps.
        retries: How often cached blocks are freed for a request, in the load and in each of these steps.
        gradients: The blocks of gradients.
        left: The blocks of the last micro-batch's other rows that are alive at its end.
    """

    def __init__(self, run: HistoryRun, machine: Machine, empty_cache: EmptyCache | None) -> None:
        self.run = run
        self.machine = machine
        self.loaded = 0
        self.steps = 0
        self.reserved: list[int] = []
        self.empty_cache = empty_cache
        self._phase: ReplayPhase = "load"
        self.left: list[Placed] = []
        self.gradients: list[Placed] = []
        #: The names of the gradients that the step's first micro-batch allocated.
        self._made: list[str] = []
        self._buckets: list[Placed] = []
        self.retries: list[int] = []
        #: The machine's retries at the end of the load or of the last step.
        self._counted = 0

    def on_machine(self, machine: Machine) -> History:
        """Return the history so far, on another machine in the same state."""
        other = copy(self)
        other.machine = machine
        other.reserved, other.retries = self.reserved.copy(), self.retries.copy()
        return other

    def finish(
        self,
        steps: Sequence[Step],
        device: DeviceMemory | None,
        before: Callable[[History], object] = id,
        played: PlayedSteps | None = None,
    ) -> HistoryResult:
        """Replay the rest of the load and the steps.

        `before` is called before each step. Histories of the run on the same device share `played`.
        """
        play = self.play if played is None else partial(played.play, self)
        end = None
        try:
            if self._phase == "load":
                self._load(device.total if device is not None else None)
            for step in steps[self.steps :]:
                before(self)
                play(step)
        except OutOfMemoryError as error:
            assert device is not None
            self._note()
            end = self._out_of_memory(error, device)
        return HistoryResult(reserved=tuple(self.reserved), retries=tuple(self.retries), out_of_memory=end)

    def play(self, step: Step) -> None:
        """Play the next step."""
        self._step(step)
        self._note()

    def set_gradients_to_none(self) -> None:
        """Free the gradients of the last step, as `optimizer.zero_grad` does."""
        self.machine.free(self.gradients)
        self.gradients = []

    def close_gaps(self, machine: FlatMachine) -> None:
        """Close the gaps between segments that released ones left, so that more steps begin in the same state.

        `machine` is the history's own. There are no gradients.
        """
        count = len(self.left)
        blocks = machine.close_gaps([*self.left, *self._buckets])
        self.left, self._buckets = blocks[:count], blocks[count:]

    def _note(self) -> None:
        """Store what the load or a step reserved."""
        most = self.machine.most_reserved()
        self.reserved.append(most if self.reserved else max(self.loaded, most))
        self.retries.append(self.machine.retries - self._counted)
        self._counted = self.machine.retries

    def _load(self, total: int | None) -> None:
        """Load the model onto a device with `total` bytes."""
        loading = self.run.loading
        sizes, (first, *rest) = loading.for_device(total)
        self.machine.begin(sizes, loading.names.__getitem__)
        self.machine.play(first)
        for events in rest:
            self.machine.empty_cache()
            self.machine.play(events)
        if self.run.buckets is not None:
            self._create(self.run.buckets.first)
        self.loaded = self.machine.most_reserved()
        self.retries.append(self.machine.retries)
        self._counted = self.machine.retries
        self._phase = "forward"

    def _step(self, step: Step) -> None:
        """Set gradients to None, run the micro-batches, clip, and run the optimizer's step."""
        machine, empties = self.machine, self.empty_cache
        if empties is not None and not empties.in_step(self.steps):
            empties = None
        self.set_gradients_to_none()
        if self.steps == 1 and self.run.buckets is not None and self.run.buckets.are_rebuilt:
            machine.free(self._buckets)
            self._create(self.run.buckets.steady)
        for number, batch in enumerate(step):
            last = number == len(step) - 1
            program, sizes = self.run.micro_batch(batch, later=number > 0, last=last)
            self._micro_batch(program, sizes, empties=empties is not None and empties.after_forward)
            if not number:
                self._made = [program.names[row] for row in program.gradients]
            if not number or (last and self.run.differs_before_last):
                self.gradients = machine.placed(program.gradients)
        if self.run.frees_gradients:
            self.set_gradients_to_none()
        self._optimizer_step()
        if empties is not None and not empties.after_forward:
            machine.empty_cache()
        self.steps += 1

    def _out_of_memory(self, error: OutOfMemoryError, device: DeviceMemory) -> OutOfMemory:
        """Return the phase and step at which a request fails."""
        return OutOfMemory(
            step=self.steps + 1 if self._phase != "load" else 0,
            phase=self._phase,
            tensor=error.tensor,
            requested_bytes=error.requested,
            message=error.message(device),
        )

    def _micro_batch(self, program: Program, sizes: list[int], *, empties: bool) -> None:
        """Run forward and backward.

        The old loss and its graph are freed when the new loss is assigned to the same name. The first micro-batch also
        allocates the workspaces.
        """
        check_budget()
        machine, names, count = self.machine, program.names, len(sizes)
        first = not self.steps and not self.gradients and any(self.run.workspaces)
        machine.begin(
            [*sizes, *self.run.workspaces] if first else sizes,
            lambda row: names[row] if row < count else WORKSPACE,
            program.streams,
        )
        if program.taken:
            self._take(program)
        for number, (events, start) in enumerate(zip(program.passes, program.workspaces, strict=True)):
            self._phase = PASSES[number]
            machine.play([*events[:start], count + number, *events[start:]] if first else events)
            if not number:
                machine.free(self.left)
                if empties:
                    machine.empty_cache()
        self.left = machine.placed(program.left)

    def _take(self, program: Program) -> None:
        """Give the last micro-batch of a step the gradients that the first one allocated."""
        named_rows = [(row, program.names[row]) for row in program.taken]
        for row, place in same_gradients(named_rows, enumerate(self._made)):
            self.machine.take([row], [self.gradients[place]])

    def _optimizer_step(self) -> None:
        self._phase = "optimizer_step"
        run = self.run
        if not self.steps:
            self._play_together(run.states)
        freed = self._play_together(run.temporaries)
        self.machine.play([~row for row in freed])

    def _create(self, buckets: tuple[ddp.Bucket, ...]) -> None:
        """Allocate DDP's buckets."""
        self._play_together([(ddp.NAME, bucket.bytes) for bucket in buckets])
        self._buckets = self.machine.placed(range(len(buckets)))

    def _play_together(self, tensors: list[tuple[str, int]]) -> range:
        rows = range(len(tensors))
        self.machine.begin([size for _, size in tensors], lambda row: tensors[row][0])
        self.machine.play(rows)
        return rows
