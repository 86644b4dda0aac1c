"""A run from loading to its steady state, replayed through PyTorch's caching allocator.

The model is loaded, then the tensors that the method adds. Training steps run until one reserves nothing more. The
first step creates the optimizer's states in blocks that its activations freed, so the second step finds less free
memory. Every step has the same batch shape, and nothing empties the cache. DDP creates its buckets after the load, and
again when the second step begins. Gradients that are views of buckets are freed after the last micro-batch, where they
were accumulated.
"""

from __future__ import annotations

from copy import copy
from functools import cached_property
from itertools import repeat
from typing import TYPE_CHECKING

from calculator.allocator.alloc_conf import DEFAULT, AllocConf
from calculator.allocator.block_pool import Block, Pool
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.loading import one_by_one
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.sharded_loading import loading_of
from calculator.sharding import ddp
from calculator.training_step.step_batches import step_batches
from calculator.training_step.unrolled import Unrolled

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.allocator.loading import Loading
    from calculator.common.names import PhaseName
    from calculator.devices.outcome import ReplayPhase
    from calculator.inputs.training import Training
    from calculator.training_step.resident_state import ResidentState
    from calculator.training_step.step_batches import StepBatches
    from calculator.training_step.unrolled import Events

#: A block in use, and the pool that must free it.
Allocated = tuple[Pool, Block]

PASSES: tuple[PhaseName, PhaseName] = ("forward", "backward")
WORKSPACE = "cuBLAS workspace"

#: The maximum number of steps that are replayed of a run that keeps growing.
MAX_STEPS = 5


def full_peak_reserved(resident: ResidentState, workspaces: tuple[int, int], conf: AllocConf = DEFAULT) -> int:
    """Return the value of `torch.cuda.max_memory_reserved` in a run's steady state, in bytes.

    `workspaces`: the bytes of the matrix library's workspaces, for the forward pass's thread and for autograd's.
    """
    return steady_reserved(Replay(CachingAllocator(conf), resident, workspaces))


def steady_reserved(replay: Replay) -> int:
    """Return the bytes that a run reserves from its beginning to its steady state."""
    replay.load()
    before = 0
    while replay.steps < 2 or (replay.allocator.reserved > before and replay.steps < MAX_STEPS):
        before = replay.allocator.reserved
        replay.step()
    return max(replay.allocator.max_reserved, replay.loading.most_reserved)


class Tensors:
    """The tensors of a list of events: the bytes of each row, and its block while it is alive."""

    __slots__ = ("blocks", "name", "pools", "sizes")

    def __init__(
        self,
        allocator: CachingAllocator,
        sizes: list[int],
        name: Callable[[int], str] | None = None,
        streams: Sequence[int] = (),
    ) -> None:
        self.sizes = [*map(allocator.conf.round_size, sizes)] if allocator.conf.rounds_to_divisions else sizes
        self.name = name
        self.pools = [*map(allocator.pool, self.sizes, streams or repeat(0))]
        self.blocks: list[Block] = [Block(0, 0)] * len(sizes)

    def play(self, events: Sequence[int]) -> None:
        """Allocate row `n` for an event `n`, and free it for `~n`.

        Raises:
            OutOfMemoryError: if an allocation fails, with the name of its tensor.
        """
        sizes, pools, blocks = self.sizes, self.pools, self.blocks
        try:
            for event in events:
                if event >= 0:
                    blocks[event] = pools[event].allocate(sizes[event])
                else:
                    pools[~event].free(blocks[~event])
        except OutOfMemoryError as error:
            error.tensor = self.name(event) if self.name else ""
            raise

    def blocks_of(self, rows: Sequence[int]) -> list[Allocated]:
        """Return the blocks of allocated rows."""
        return [(self.pools[row], self.blocks[row]) for row in rows]

    def take(self, pairs: Sequence[tuple[int, int]], other: Tensors) -> None:
        """Assign allocated blocks of other tensors to rows.

        `pairs` has an own row and a row of `other` each.
        """
        for row, of_other in pairs:
            self.blocks[row] = other.blocks[of_other]


class Batch:
    """The events of a micro-batch and its tensors.

    The events of all layers are listed when they are first read.
    """

    def __init__(self, allocator: CachingAllocator, given: Events | Unrolled) -> None:
        self.given = given
        self._allocator = allocator

    @cached_property
    def events(self) -> Events:
        """The events of all layers."""
        return self.given.events() if isinstance(self.given, Unrolled) else self.given

    @cached_property
    def forward(self) -> Sequence[int]:
        """The events of the forward pass that have a block."""
        return _without(self._empty, self.events.forward)

    @cached_property
    def backward(self) -> Sequence[int]:
        """The events of the backward pass that have a block."""
        return _without(self._empty, self.events.backward)

    @cached_property
    def _empty(self) -> set[int]:
        return {row for row, kind in enumerate(self.events.rows) if not kind[4]}

    @cached_property
    def tensors(self) -> Tensors:
        """The tensors of its rows."""
        return self._tensors(self._allocator)

    def for_allocator(self, allocator: CachingAllocator) -> Batch:
        """Return the same events for another allocator."""
        batch = copy(self)
        batch.tensors = self._tensors(allocator)
        return batch

    def _tensors(self, allocator: CachingAllocator) -> Tensors:
        rows = self.events.rows
        return Tensors(allocator, [row[4] for row in rows], lambda row: rows[row][0], self.events.streams)


def _without(rows: set[int], events: Sequence[int]) -> Sequence[int]:
    """Return events without those of some rows.

    A tensor of zero bytes has no block (CUDACachingAllocator.cpp, allocate).
    """
    return [event for event in events if max(event, ~event) not in rows] if rows else events


class Replay:
    """A training run's allocations in order, served by one allocator."""

    __slots__ = (
        "allocator",
        "buckets",
        "first",
        "gradients",
        "last",
        "later",
        "left",
        "loading",
        "phase",
        "repeats",
        "resident",
        "steps",
        "taken",
        "training",
        "workspaces",
    )

    def __init__(
        self,
        allocator: CachingAllocator,
        resident: ResidentState,
        workspaces: tuple[int, int],
        loading: Loading | None = None,
    ) -> None:
        """Set up the replay of a run.

        `loading` is the load of the run, if it is known.
        """
        self.allocator = allocator
        self.resident = resident
        self.workspaces = workspaces
        self.training = self._training()
        batches = self._micro_batches()
        self.first = Batch(allocator, batches.first)
        self.later = Batch(allocator, batches.later) if batches.later is not None else None
        #: The last micro-batch if it differs from those before it, and the rows of the first one that it reuses.
        self.last = Batch(allocator, batches.last) if batches.last is not None else None
        self.taken = batches.taken
        self.repeats = batches.repeats
        self.loading = loading or loading_of(resident)
        self._start()

    def _training(self) -> Training:
        return self.resident.prepared.training

    def _micro_batches(self) -> StepBatches[Unrolled] | StepBatches[Events]:
        return step_batches(self.resident)

    def _start(self) -> None:
        self.steps = 0
        #: The phase that is running.
        self.phase: ReplayPhase = "load"
        self.left: list[Allocated] = []
        self.gradients: list[Allocated] = []
        self.buckets: list[Allocated] = []

    def for_allocator(self, allocator: CachingAllocator) -> Replay:
        """Return the same run from its beginning, for another allocator."""
        run = copy(self)
        run.allocator = allocator
        run.first = self.first.for_allocator(allocator)
        run.later = self.later.for_allocator(allocator) if self.later is not None else None
        run.last = self.last.for_allocator(allocator) if self.last is not None else None
        run._start()  # noqa: SLF001  its own class
        return run

    def load(self) -> None:
        """Load the model onto the GPU."""
        sizes, (first, *rest) = self.loading.for_device(self.allocator.total)
        loaded = self._loaded(sizes, self.loading.names)
        loaded.play(first)
        for events in rest:
            self.allocator.empty_cache()
            loaded.play(events)
        if self.resident.buckets is not None:
            self._create(self.resident.buckets.first)
        self.phase = "forward"

    def _loaded(self, sizes: list[int], names: Sequence[str]) -> Tensors:
        """Return the tensors of the load."""
        return Tensors(self.allocator, sizes, names.__getitem__)

    def step(self) -> None:
        """Set gradients to None, run the micro-batches, clip, and run the optimizer's step."""
        self._free(self.gradients)
        if self.steps == 1 and self.resident.buckets is not None and self.resident.buckets.are_rebuilt:
            self._free(self.buckets)
            self._create(self.resident.buckets.steady)
        if self.steps:
            self.phase = "forward"
            batches = one_by_one(self.resident.while_fetching)
            self._free([self._allocate(tensor.bytes // tensor.count, tensor.name) for tensor in batches])
        self._micro_batch(self.first)
        self.gradients = self.first.tensors.blocks_of(self.first.events.gradients)
        if self.later is not None:
            for _ in range(self.repeats):
                self._micro_batch(self.later)
        if self.last is not None:
            self.last.tensors.take(self.taken, self.first.tensors)
            self._micro_batch(self.last)
            self.gradients = self.last.tensors.blocks_of(self.last.events.gradients)
        if self.resident.frees_gradients:
            self._free(self.gradients)
            self.gradients = []
        self._optimizer_step()
        self.steps += 1

    def _micro_batch(self, batch: Batch) -> None:
        """Run forward and backward.

        The old loss and its graph are freed when the new loss is assigned to the same name.
        """
        starts = (batch.events.workspace_place(batch.forward), batch.events.workspace_place(batch.backward))
        for n, (passed, start) in enumerate(zip((batch.forward, batch.backward), starts, strict=True)):
            self.phase = PASSES[n]
            if self.steps == 0 and batch is self.first:
                batch.tensors.play(passed[:start])
                if self.workspaces[n]:
                    self._allocate(self.workspaces[n], WORKSPACE)
                batch.tensors.play(passed[start:])
            else:
                batch.tensors.play(passed)
            self._free(self.left)
            self.left = []
        self.left = batch.tensors.blocks_of(batch.events.left)

    def _optimizer_step(self) -> None:
        self.phase = "optimizer_step"
        if self.steps == 0:
            for state in one_by_one(self.resident.replayed_states):
                self._allocate(state.bytes // state.count, state.name)
        temporaries = one_by_one(self.resident.replayed_temporaries)
        self._free([self._allocate(tensor.bytes // tensor.count, tensor.name) for tensor in temporaries])

    def _create(self, buckets: tuple[ddp.Bucket, ...]) -> None:
        """Allocate DDP's buckets."""
        self.buckets = [self._allocate(bucket.bytes, ddp.NAME) for bucket in buckets]

    def _allocate(self, size: int, name: str) -> Allocated:
        try:
            return self.allocator.allocate(size)
        except OutOfMemoryError as error:
            error.tensor = name
            raise

    def _free(self, blocks: list[Allocated]) -> None:
        """Free blocks."""
        for pool, block in blocks:
            pool.free(block)
