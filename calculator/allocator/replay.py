"""A run from loading to its steady state, replayed through PyTorch's caching allocator.

The model is loaded, what the method adds follows, and training steps run until one takes nothing more from the card:
the first makes the optimizer's states, which lie where its activations lay, so that the second finds less room. Every
step has the same batch shape, and nothing empties the cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator.block_pool import Block, Pool
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.loading import Loading, spelled
from calculator.training_step.unrolled import Events, events

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.training_step.resident_state import ResidentState

#: A block in use, and the pool that it goes back to.
Taken = tuple[Pool, Block]

#: Micro-batches after a step's first that are run: the others meet what the last of these met.
LATER_MICRO_BATCHES = 2

#: Steps after which a run that still grows is left alone.
MOST_STEPS = 5


def peak_reserved(resident: ResidentState, workspaces: tuple[int, int]) -> int:
    """What `torch.cuda.max_memory_reserved` reads in a run's steady state, bytes.

    `workspaces`: bytes of the matrix library's workspaces, of the forward pass's thread and of autograd's.
    """
    run = Replay(CachingAllocator(), resident, workspaces)
    run.load()
    before = 0
    while run.steps < 2 or (run.allocator.reserved > before and run.steps < MOST_STEPS):
        before = run.allocator.reserved
        run.step()
    return run.allocator.max_reserved


class Tensors:
    """What an allocator is asked for: the bytes of each row, and its block while it lives."""

    __slots__ = ("blocks", "pools", "sizes")

    def __init__(self, allocator: CachingAllocator, sizes: list[int]) -> None:
        self.sizes = sizes
        self.pools = [*map(allocator.pool, sizes)]
        self.blocks: list[Block] = [Block(0, 0)] * len(sizes)

    def play(self, told: Sequence[int]) -> None:
        """Allocate and free as events tell: `n` for the birth of row `n`, `~n` for its end."""
        sizes, pools, blocks = self.sizes, self.pools, self.blocks
        for event in told:
            if event >= 0:
                blocks[event] = pools[event].allocate(sizes[event])
            else:
                pools[~event].free(blocks[~event])

    def held(self, rows: Sequence[int]) -> list[Taken]:
        """The blocks of rows that live."""
        return [(self.pools[row], self.blocks[row]) for row in rows]


class Batch:
    """A micro-batch's events and its tensors."""

    __slots__ = ("backward", "events", "forward", "tensors")

    def __init__(self, allocator: CachingAllocator, told: Events) -> None:
        self.events = told
        nothing = {row for row, born in enumerate(told.rows) if not born[4]}
        self.forward = _without(nothing, told.forward)
        self.backward = _without(nothing, told.backward)
        self.tensors = Tensors(allocator, [row[4] for row in told.rows])


def _without(rows: set[int], told: Sequence[int]) -> Sequence[int]:
    """Events without those of some rows: a tensor of no bytes has no block (CUDACachingAllocator.cpp, allocate)."""
    return [event for event in told if max(event, ~event) not in rows] if rows else told


class Replay:
    """A training run's allocations, in order, from one allocator."""

    __slots__ = (
        "allocator",
        "first",
        "gradients",
        "later",
        "left",
        "resident",
        "steps",
        "training",
        "workspaces",
    )

    def __init__(self, allocator: CachingAllocator, resident: ResidentState, workspaces: tuple[int, int]) -> None:
        self.allocator = allocator
        self.resident = resident
        self.workspaces = workspaces
        prepared = resident.prepared
        self.training = prepared.training
        alone = replace(self.training, gradient_accumulation_steps=1)
        self.first = Batch(allocator, events(prepared.for_run(alone, prepared.device)))
        self.later = Batch(allocator, events(prepared)) if self.training != alone else None
        self.steps = 0
        self.left: list[Taken] = []
        self.gradients: list[Taken] = []

    def load(self) -> None:
        """Put the model on the card."""
        loading = Loading(self.resident.tensors, self.training)
        Tensors(self.allocator, loading.sizes).play(loading.events)

    def step(self) -> None:
        """Set gradients to None, run the micro-batches, clip, and let the optimizer step."""
        self._free(self.gradients)
        self._micro_batch(self.first)
        self.gradients = self.first.tensors.held(self.first.events.gradients)
        if self.later is not None:
            for _ in range(min(self.training.gradient_accumulation_steps - 1, LATER_MICRO_BATCHES)):
                self._micro_batch(self.later)
        self._optimizer_step()
        self.steps += 1

    def _micro_batch(self, batch: Batch) -> None:
        """Forward and backward; the old loss and its graph go when the new loss takes their name."""
        starts = (batch.events.first_product(batch.forward), batch.events.first_product(batch.backward))
        for n, (passed, start) in enumerate(zip((batch.forward, batch.backward), starts, strict=True)):
            if self.steps == 0 and batch is self.first:
                batch.tensors.play(passed[:start])
                self._take(self.workspaces[n])
                batch.tensors.play(passed[start:])
            else:
                batch.tensors.play(passed)
            self._free(self.left)
            self.left = []
        self.left = batch.tensors.held(batch.events.left)

    def _optimizer_step(self) -> None:
        if self.steps == 0:
            for state in spelled(self.resident.optimizer_states):
                self._take(state.bytes // state.count)
        made = spelled(self.resident.step_temporaries)
        self._free([self._take(tensor.bytes // tensor.count) for tensor in made])

    def _take(self, size: int) -> Taken:
        pool = self.allocator.pool(size)
        return pool, pool.allocate(size)

    @staticmethod
    def _free(blocks: list[Taken]) -> None:
        for pool, block in blocks:
            pool.free(block)
