"""The parts that all histories of a run share (load, optimizer tensors and micro-batches), and their replays."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.chunks import pool_count
from calculator.allocator.history import History
from calculator.allocator.loading import one_by_one
from calculator.allocator.machines import ConfiguredMachine, FlatMachine
from calculator.allocator.played_steps import PlayedSteps
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT
from calculator.allocator.sharded_loading import loading_of
from calculator.training_step.batch_trace import BatchTraces

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from calculator.allocator.history import EmptyCache, HistoryResult, Padded, Step
    from calculator.allocator.out_of_memory import DeviceMemory
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.training_step.batch_trace import Program
    from calculator.training_step.resident_state import ResidentState

    Steps = Sequence[Step]
    #: A history, and its machine.
    _State = tuple[History, FlatMachine]


class HistoryRun:
    """The parts that all histories of a run share, and the histories that were replayed without a limit."""

    def __init__(self, resident: ResidentState, workspaces: tuple[int, int]) -> None:
        self.workspaces = workspaces
        self.loading = loading_of(resident)
        self.differs_before_last = resident.differs_before_last
        self.states = _sizes_by_kind(resident.replayed_states)
        self.temporaries = _sizes_by_kind(resident.replayed_temporaries)
        self.buckets = resident.buckets
        self.frees_gradients = resident.frees_gradients
        self.prepared = resident.prepared
        self._traces: dict[tuple[bool, bool, bool], BatchTraces] = {}
        self._unlimited: dict[Hashable, _Unlimited] = {}

    def micro_batch(self, batch: Padded, *, later: bool, last: bool = True) -> tuple[Program, list[int]]:
        """Return the events of a micro-batch, and the bytes of its rows.

        A `later` micro-batch of a step adds to existing gradients. One that is not the `last` may not reduce gradients.
        """
        reduces = last or not self.differs_before_last
        key = batch.padding, later, reduces
        if key not in self._traces:
            training = replace(self.prepared.training, padding=batch.padding)
            if not later:
                training = training.first_micro_batch
            prepared = self.prepared.for_run(training, self.prepared.device)
            self._traces[key] = BatchTraces(prepared, reduces=reduces)
        return self._traces[key].sized(batch.length)

    def replay(
        self,
        steps: Sequence[Step],
        *,
        empty_cache: EmptyCache | None = None,
        device: DeviceMemory | None = None,
        conf: AllocConf = DEFAULT,
        played: PlayedSteps | None = None,
    ) -> HistoryResult:
        """Replay the load and some steps, without a limit or on a device.

        With default settings, a replay on a device continues from a replay without a limit. Replays of several
        histories on the same device share `played`.
        """
        if conf != DEFAULT:
            return History(self, ConfiguredMachine(conf, device), empty_cache).finish(steps, device)
        key = tuple(steps), empty_cache
        if key not in self._unlimited:
            self._unlimited[key] = _Unlimited(self, self.machine(steps), empty_cache, steps, played or PlayedSteps())
        unlimited = self._unlimited[key]
        return unlimited.result if device is None else unlimited.replay_on(device, played or PlayedSteps())

    def machine(self, steps: Sequence[Step], more: int = 0) -> FlatMachine:
        """Return a device that has room for some steps and `more` bytes."""
        pools = pool_count(self.micro_batch(steps[0][0], later=False)[0].streams)
        return FlatMachine(self._units(steps) + more // BLOCK, pools)

    def _units(self, steps: Sequence[Step]) -> int:
        """Return an upper bound on the size of all segments that the steps can request, in units of 512 bytes."""
        longest = max(batch for step in steps for batch in step)
        sizes = [*self.loading.sizes, *self.workspaces]
        sizes += (size for _, size in (*self.states, *self.temporaries))
        sizes += (bucket.bytes for both in self.buckets or () for bucket in both)
        sizes += self.micro_batch(longest, later=True)[1] * max(map(len, steps))
        return (sum(sizes) + len(sizes) * LARGE_SEGMENT) // BLOCK * (len(steps) + 1)


class _Unlimited:
    """A history without a limit.

    It keeps its states before the load and before each step that reserves more than all earlier ones.
    """

    def __init__(
        self,
        run: HistoryRun,
        machine: FlatMachine,
        empty_cache: EmptyCache | None,
        steps: Steps,
        played: PlayedSteps,
    ) -> None:
        self._run = run
        self._steps = steps
        self._start = History(run, machine, empty_cache), machine
        self._states: list[_State] = []
        self.result = self._copy(self._start).finish(steps, None, self._keep, played)
        reserved = self.result.reserved
        growing = {step for step, most in enumerate(reserved) if most > max(reserved[:step], default=0)}
        self._states = [state for state in self._states if state[0].steps in growing]

    def replay_on(self, device: DeviceMemory, played: PlayedSteps) -> HistoryResult:
        """Return the replay on a device.

        It is the same up to the first step that reserves more than the device has.
        """
        capacity, state = device.capacity, self._start
        if self._run.loading.spare(device.total) >= 0 and self._states[0][0].loaded <= capacity:
            if self.result.peak_reserved_bytes <= capacity:
                return self.result
            state = next(saved for saved in self._states if self.result.reserved[saved[0].steps] > capacity)
        return self._copy(state, capacity).finish(self._steps, device, played=played)

    def _keep(self, history: History) -> None:
        assert isinstance(history.machine, FlatMachine)
        machine = history.machine.saved()
        self._states.append((history.on_machine(machine), machine))

    @staticmethod
    def _copy(state: _State, capacity: int | None = None) -> History:
        history, machine = state
        return history.on_machine(machine.saved(capacity))


def _sizes_by_kind(resident: Iterable[ResidentTensors]) -> list[tuple[str, int]]:
    return [(tensor.name, tensor.bytes // tensor.count) for tensor in one_by_one(resident)]
