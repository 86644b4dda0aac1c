"""A journal of a run's allocations in order, from the load to its second step, with what is alive at each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.loading import WARMUP
from calculator.allocator.replay import PASSES, WORKSPACE, Allocated, Batch, Replay, Tensors
from calculator.resident.per_parameter import tensors
from calculator.training_step.replayed_step import as_micro_batch, step_of
from calculator.training_step.step_batches import StepBatches, step_batches
from calculator.training_step.unrolled import unrolled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from calculator.allocator.block_pool import Block
    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName, PhaseName
    from calculator.devices.outcome import ReplayPhase
    from calculator.estimation.device_replay import DeviceReplay
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.training_step.resident_state import ResidentState
    from calculator.training_step.unrolled import Events, Unrolled

#: The steps that are recorded. The first one creates the optimizer's states. Later ones repeat the second.
STEPS = 2


#: The components of allocations that are not tensors of the run. Any other such allocation is one of DDP's buckets.
_OTHERS: dict[str, ComponentName] = {WARMUP: "base_weights", WORKSPACE: "workspace"}


class Kind(NamedTuple):
    """A tensor's name and component, and its shape and dtype if it belongs to a micro-batch."""

    name: str
    component: ComponentName
    shape: Shape | None = None
    dtype: DType | None = None


class Request(NamedTuple):
    """An allocation: when it is requested, for what, and the blocks in use before it.

    Attributes:
        step: 0 while the model is loaded, 1 in the first step, 2 in every later one.
        phase: The phase that runs then.
        kind: The tensor.
        size: The request, rounded to a block, bytes.
        segment: The segment that the device allocates if no cached block serves it, bytes.
        allocated: What `torch.cuda.memory_allocated` reads before it, bytes.
    """

    step: int
    phase: ReplayPhase
    kind: Kind
    size: int
    segment: int
    allocated: int


class Journal:
    """The allocations and frees of a run.

    Attributes:
        requests: Every allocation.
        log: Event `n` is the allocation of request `n`, event `~n` frees its block.
        addresses, sizes, streams: The address, the size and the stream of each request's block.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.log: list[int] = []
        self.addresses: list[int] = []
        self.sizes: list[int] = []
        self.streams: list[int] = []
        self.allocated = 0
        #: The request of each block in use, by the block's identity.
        self.owners: dict[int, int] = {}

    def alive_requests(self, events: int) -> list[int]:
        """Return the requests whose blocks are in use after some events of the log."""
        live: dict[int, None] = {}
        for event in self.log[:events]:
            if event >= 0:
                live[event] = None
            else:
                del live[~event]
        return [*live]

    def line(self) -> Iterator[tuple[int, int]]:
        """Yield each event of the log, and the bytes in use after it."""
        allocated = 0
        for event in self.log:
            size = self.requests[max(event, ~event)].size
            allocated += size if event >= 0 else -size
            yield event, allocated


class RecordedReplay(Replay):
    """A replay that records each allocation and each free."""

    __slots__ = ("_components", "_phases", "journal")

    def __init__(self, replay: DeviceReplay, allocator: CachingAllocator) -> None:
        self.journal = Journal()
        #: By row, the phases of a step under ZeRO, which is replayed as one micro-batch.
        self._phases: Sequence[PhaseName] = ()
        super().__init__(allocator, replay.resident, replay.workspaces)
        named = _between_micro_batches(self.resident)
        self._components: dict[str, ComponentName] = {tensor.name: tensor.component for tensor in tensors(named)}
        self.first = _RecordedBatch(self, self.first.events)
        self.later = _RecordedBatch(self, self.later.events) if self.later is not None else None
        self.last = _RecordedBatch(self, self.last.events) if self.last is not None else None

    def kind(self, name: str) -> Kind:
        """Return the kind of a tensor that stays alive between micro-batches."""
        return Kind(name, self._components.get(name) or _OTHERS.get(name, "gradients"))

    def phase_of(self, row: int) -> ReplayPhase:
        """Return the phase that runs while a row is allocated."""
        return self._phases[row] if self._phases and self.phase in PASSES else self.phase

    def note(self, block: Block, size: int, kind: Kind, stream: int = 0, phase: ReplayPhase | None = None) -> None:
        """Record an allocation, by default in the phase of the replay."""
        journal = self.journal
        steps = 0 if self.phase == "load" else min(self.steps + 1, STEPS)
        number = len(journal.requests)
        segment = self.allocator.segment_bytes(size)
        journal.requests.append(Request(steps, phase or self.phase, kind, size, segment, journal.allocated))
        journal.log.append(number)
        journal.addresses.append(block.address)
        journal.sizes.append(block.size)
        journal.streams.append(stream)
        journal.owners[id(block)] = number
        journal.allocated += block.size

    def forget(self, block: Block) -> None:
        """Record a free, before the block is merged with others."""
        self.journal.log.append(~self.journal.owners.pop(id(block)))
        self.journal.allocated -= block.size

    def _micro_batches(self) -> StepBatches[Unrolled]:
        """Return the micro-batches with the shapes of their rows. Cached micro-batches have no shapes."""
        if self.resident.flat is None and self.resident.partitioned is None:
            return step_batches(self.resident, unrolled)
        events = step_of(self.resident).events
        self._phases = events.phases
        return StepBatches(as_micro_batch(events))

    def _loaded(self, sizes: list[int], names: Sequence[str]) -> Tensors:
        return _RecordedTensors(self, sizes, lambda row: self.kind(names[row]))

    def _allocate(self, size: int, name: str) -> Allocated:
        pool, block = super()._allocate(size, name)
        self.note(block, self.allocator.conf.round_size(size), self.kind(name))
        return pool, block

    def _free(self, blocks: list[Allocated]) -> None:
        for _, block in blocks:
            self.forget(block)
        super()._free(blocks)


class _RecordedBatch(Batch):
    """A micro-batch whose tensors are recorded."""

    def __init__(self, run: RecordedReplay, events: Events) -> None:
        self._run = run
        super().__init__(run.allocator, events)

    def _tensors(self, allocator: CachingAllocator) -> Tensors:  # noqa: ARG002  the run's own
        rows = self.events.rows

        def kind(row: int) -> Kind:
            name, shape, dtype, component, _ = rows[row]
            return Kind(name, component, shape, dtype)

        return _RecordedTensors(self._run, [row[4] for row in rows], kind, self.events.streams)


class _RecordedTensors(Tensors):
    """Tensors whose allocations and frees are recorded."""

    __slots__ = ("_kind", "_run", "_streams")

    def __init__(
        self, run: RecordedReplay, sizes: list[int], kind: Callable[[int], Kind], streams: Sequence[int] = ()
    ) -> None:
        self._run, self._kind, self._streams = run, kind, streams
        super().__init__(run.allocator, sizes, lambda row: kind(row).name, streams)

    def play(self, events: Sequence[int]) -> None:
        """Allocate and free, and record each event."""
        for event in events:
            if event < 0:
                self._run.forget(self.blocks[~event])
            super().play((event,))
            if event >= 0:
                stream = self._streams[event] if self._streams else 0
                phase = self._run.phase_of(event)
                self._run.note(self.blocks[event], self.sizes[event], self._kind(event), stream, phase)


def _between_micro_batches(resident: ResidentState) -> tuple[ResidentTensors, ...]:
    """Return the tensors that a run allocates outside its micro-batches."""
    zero = resident.flat or resident.partitioned
    kept = () if zero is None else zero.resident_tensors
    return (*resident.tensors, *kept, *resident.replayed_states, *resident.replayed_temporaries)


def recorded(replay: DeviceReplay, total: int | None = None) -> RecordedReplay:
    """Return a run, recorded on an unlimited device.

    The load warms the allocator up as on a device of `total` bytes.
    """
    run = RecordedReplay(replay, CachingAllocator(replay.conf, total=total))
    run.load()
    for _ in range(STEPS):
        run.step()
    return run


def journal_of(replay: DeviceReplay, total: int | None = None) -> Journal:
    """Return the journal of a run."""
    return recorded(replay, total).journal
