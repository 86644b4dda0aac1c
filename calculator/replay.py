"""A run from loading to its steady state, replayed through PyTorch's caching allocator.

The model is loaded, what the method adds follows, and training steps run until one takes nothing more from the card:
the first makes the optimizer's states, which lie where its activations lay, so that the second finds less room. Every
step has the same batch shape, and nothing empties the cache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from calculator.allocator import SMALL_REQUEST, CachingAllocator
from calculator.beside import optimizer_states
from calculator.loading import Loading, spelled
from calculator.optimizers import OPTIMIZERS
from calculator.state import stored
from calculator.step.optimizer_step import temporaries
from calculator.step.unrolled import Events, events
from calculator.treatment import Treated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.methods import Method
    from calculator.model import Model
    from calculator.training import Training

#: A block in use: its bytes as requested, and its address.
Block = tuple[int, int]

#: Micro-batches after a step's first that are run: the others meet what the last of these met.
LATER_MICRO_BATCHES = 2

#: Steps after which a run that still grows is left alone.
MOST_STEPS = 5


def peak_reserved(model: Model, method: Method, training: Training, workspaces: tuple[int, int]) -> int:
    """What `torch.cuda.max_memory_reserved` reads in a run's steady state, bytes.

    `workspaces`: bytes of the matrix library's workspaces, of the forward pass's thread and of autograd's.
    """
    run = Run(CachingAllocator(), model, method, training, workspaces)
    run.load()
    before = 0
    while run.steps < 2 or (run.allocator.reserved > before and run.steps < MOST_STEPS):
        before = run.allocator.reserved
        run.step()
    return run.allocator.max_reserved


class Batch:
    """A micro-batch's events with what playing them needs: bytes by row, and addresses while rows live."""

    __slots__ = ("addresses", "backward", "events", "forward", "sizes")

    def __init__(self, told: Events) -> None:
        self.events = told
        self.forward = told.forward
        self.backward = told.backward
        self.sizes = [row[4] for row in told.rows]
        self.addresses = [0] * len(told.rows)

    def blocks(self, rows: Sequence[int]) -> list[Block]:
        """Where rows lie."""
        return [(self.sizes[row], self.addresses[row]) for row in rows]


class Run:
    """A training run's allocations, in order, from one allocator."""

    __slots__ = (
        "allocator",
        "first",
        "gradients",
        "later",
        "left",
        "optimizer",
        "state",
        "steps",
        "training",
        "workspaces",
    )

    def __init__(
        self,
        allocator: CachingAllocator,
        model: Model,
        method: Method,
        training: Training,
        workspaces: tuple[int, int],
    ) -> None:
        self.allocator = allocator
        self.training = training
        self.workspaces = workspaces
        self.state = stored(Treated(model, method, training))
        self.optimizer = OPTIMIZERS[training.optimizer]
        alone = replace(training, gradient_accumulation_steps=1)
        self.first = Batch(events(model, method, alone))
        self.later = Batch(events(model, method, training)) if training != alone else None
        self.steps = 0
        self.left: list[Block] = []
        self.gradients: list[Block] = []

    def load(self) -> None:
        """Put the model on the card."""
        loading = Loading(self.state, self.training)
        self._play(loading.events, loading.sizes, [0] * len(loading.sizes))

    def step(self) -> None:
        """Set gradients to None, run the micro-batches, clip, and let the optimizer step."""
        self._free(self.gradients)
        self._micro_batch(self.first)
        self.gradients = self.first.blocks(self.first.events.gradients)
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
                self._play(passed[:start], batch.sizes, batch.addresses)
                self._take(self.workspaces[n])
                self._play(passed[start:], batch.sizes, batch.addresses)
            else:
                self._play(passed, batch.sizes, batch.addresses)
            self._free(self.left)
            self.left = []
        self.left = batch.blocks(batch.events.left)

    def _optimizer_step(self) -> None:
        if self.steps == 0:
            for state in spelled(optimizer_states(self.state, self.optimizer)):
                self._take(state.bytes // state.count)
        trained = tuple(tensor for tensor in self.state if tensor.trained)
        made = spelled(temporaries(trained, self.optimizer, self.training.max_grad_norm))
        self._free([self._take(tensor.bytes // tensor.count) for tensor in made])

    def _take(self, size: int) -> Block:
        pool = self.allocator.pool(size)
        return size, pool.allocate(size)

    def _free(self, blocks: list[Block]) -> None:
        for size, address in blocks:
            self.allocator.pool(size).free(address)

    def _play(self, told: Sequence[int], sizes: list[int], addresses: list[int]) -> None:
        small, large = self.allocator.small, self.allocator.large
        for event in told:
            if event >= 0:
                size = sizes[event]
                addresses[event] = (small if size <= SMALL_REQUEST else large).allocate(size)
            else:
                row = ~event
                (small if sizes[row] <= SMALL_REQUEST else large).free(addresses[row])
