"""The figure of `torch.cuda.max_memory_allocated` for a run: whole blocks, by replay.

The allocator counts the block that serves a tensor, not the tensor. A large block of which up to 1 MiB is left is not
split, so that a tensor of 35 MiB counts as 36 MiB. An estimate counts live tensors, each rounded to 512 bytes.
Source: c10/cuda/CUDACachingAllocator.cpp, should_split, and alloc_found_block (allocated_bytes is increased by the
block's size).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.allocator.block_pool import Pool
from calculator.allocator.caching_allocator import CachingAllocator
from calculator.allocator.replay import Batch, Replay
from calculator.allocator.segments import SMALL_REQUEST
from calculator.estimation.estimate import resident_state
from validation.published.outputs import free_after_backward

if TYPE_CHECKING:
    from calculator.allocator.block_pool import Block
    from calculator.architecture.model import Model
    from calculator.estimation.request import Request
    from calculator.training_step.resident_state import ResidentState
    from validation.published.measurement import Protocol

#: Steps until every step is alike: the first creates the optimizer's states.
STEPS = 3


class CountingAllocator(CachingAllocator):
    """An allocator that counts the bytes of the blocks in use."""

    __slots__ = ("allocated", "max_allocated")

    def __init__(self) -> None:
        self.allocated = self.max_allocated = 0
        super().__init__()

    def _new_pools(self) -> tuple[Pool, Pool]:
        return _CountingPool(self, largest_waste=0), _CountingPool(self, largest_waste=SMALL_REQUEST)


class _CountingPool(Pool):
    """A pool that counts its blocks in use."""

    allocator: CountingAllocator

    __slots__ = ()

    def allocate(self, size: int) -> Block:
        block = super().allocate(size)
        counts = self.allocator
        counts.allocated += block.size
        counts.max_allocated = max(counts.max_allocated, counts.allocated)
        return block

    def free(self, block: Block) -> None:
        self.allocator.allocated -= block.size
        super().free(block)


class _WithOutput(Replay):
    """The script of the protocol `output_in_backward`: gradients stay, and the cache is emptied before each step."""

    __slots__ = ()

    def __init__(
        self, allocator: CachingAllocator, resident: ResidentState, workspaces: tuple[int, int], model: Model
    ) -> None:
        super().__init__(allocator, resident, workspaces)
        assert self.later is not None
        self.first, self.later = (
            Batch(allocator, free_after_backward(batch.events, model)) for batch in (self.first, self.later)
        )

    def step(self) -> None:
        """Run one micro-batch, whose gradients are added to those of the step before, and the optimizer's step."""
        batch = self.later if self.steps else self.first
        assert batch is not None
        self.allocator.empty_cache()
        self._micro_batch(batch)
        self._optimizer_step()
        self.steps += 1


def max_allocated(request: Request, model: Model, workspaces: tuple[int, int], protocol: Protocol | None) -> int:
    """Return the most bytes of blocks in use in a step of the steady state, the libraries' workspaces included."""
    allocator, resident = CountingAllocator(), resident_state(request)
    if protocol == "output_in_backward":
        replay: Replay = _WithOutput(allocator, resident, workspaces, model)
    else:
        replay = Replay(allocator, resident, workspaces)
    replay.load()
    for _ in range(STEPS):
        allocator.max_allocated = allocator.allocated
        replay.step()
    return allocator.max_allocated
