"""The replay with default settings on an unlimited device, in a fraction of the time.

It is `replay` with flat pools and few events.
"""

from __future__ import annotations

from functools import partial
from itertools import repeat
from operator import floordiv
from typing import TYPE_CHECKING

from calculator.allocator.adapter_updates import play_updates
from calculator.allocator.chunks import SMALL
from calculator.allocator.flat_pool import FlatPool
from calculator.allocator.gap_rests import play_gap
from calculator.allocator.loading import layers
from calculator.allocator.needs import Need
from calculator.allocator.played_load import load, parts_by_pool
from calculator.allocator.recurring_states import PassStates
from calculator.allocator.repetitions import play_repetitions
from calculator.allocator.replay import MAX_STEPS
from calculator.allocator.rest_of_step import placed, rest_of_step
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT
from calculator.allocator.sharded_loading import loading_of
from calculator.allocator.transients import MicroBatch, play
from calculator.training_step.step_batches import step_batches

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from calculator.allocator.flat_pool import Layer, Placed, Saved
    from calculator.allocator.loading import Loading
    from calculator.allocator.rest_of_step import RestOfStep
    from calculator.resident.per_parameter import ResidentTensors
    from calculator.training_step.resident_state import ResidentState

#: If at most this many tensors outlive a micro-batch in a pool, everything else that it allocated is freed at once.
FEW = 16
#: An upper bound on how often a replay allocates each row.
_TIMES = 16


class StartState:
    """The state that determines a pool's requests in a step.

    It consists of the free blocks, and the blocks that the previous step left.
    """

    __slots__ = ("free", "left", "most", "segments")

    def __init__(self, pool: FlatPool, left: list[Placed]) -> None:
        self.free = pool.free_blocks()
        self.left = left
        self.segments = pool.segments.copy()
        #: An upper bound on the key of the largest block that can be free during the step.
        self.most = max([*(self.segments if left else self.free[-1:]), 0])

    def repeats(self, earlier: StartState) -> bool:
        """Return whether the step repeats an earlier step, so that it adds no segment and ends as it began.

        It does if it begins in the same state as the earlier step. It also does if the only difference is that the
        segments added since then are free, and none of them is smaller than any earlier block. Then each is used after
        all other free blocks, and only for the request for which it was added. Among blocks of one size the first is
        used, and the added ones come last.
        """
        added = self.segments[len(earlier.segments) :]
        return (
            self.left == earlier.left
            and len(self.free) == len(earlier.free) + len(added)
            and self.free == sorted([*earlier.free, *added])
            and [earlier.most, *added] == sorted([earlier.most, *added])
        )


class FastReplay:
    """The allocations of a training run in order, served from a small and a large pool of each stream.

    The pools never run out of memory.
    """

    def __init__(self, resident: ResidentState, workspaces: tuple[int, int], loading: Loading | None = None) -> None:
        """Set up the replay of a run.

        `loading` is the load of the run, if it is known.
        """
        self.resident = resident
        self.training = resident.prepared.training
        batches = step_batches(resident)
        self.first = MicroBatch(batches.first, workspaces if any(workspaces) else None)
        self.later = MicroBatch(batches.later, None) if batches.later is not None else None
        #: The last micro-batch if it differs from those before it, and the rows of the first one that it reuses.
        self.last = MicroBatch(batches.last, None) if batches.last is not None else None
        self.taken = batches.taken
        #: The micro-batches of a step.
        in_order = (self.first, *repeat(self.later, batches.repeats), self.last)
        self.batches = [batch for batch in in_order if batch is not None]
        self.loading = loading or loading_of(resident)
        #: For each pool of the first stream, the sizes of optimizer states of a layer and the number of such layers.
        self.states = _layers(resident.replayed_states)
        #: The same of what each optimizer step allocates and frees, and of what is freed after a step's batches are
        #: fetched.
        self.temporaries = _layers(resident.replayed_temporaries)
        self.fetching = _layers(resident.while_fetching)
        self.temporary_sizes = [*map(_sizes, self.temporaries)]
        self.needs = [*map(Need.from_sizes, self.temporary_sizes)]
        found = resident.buckets
        #: The sizes of DDP's buckets in each pool: those of the first step, and those of later steps if DDP rebuilds
        #: them.
        self.buckets = [
            _by_pool([bucket.bytes // BLOCK for bucket in buckets])
            for buckets in ((found.first, found.steady)[: 1 + found.are_rebuilt] if found is not None else ())
        ]
        sizes = [*self.temporary_sizes, *map(_sizes, (*self.fetching, *self.states))]
        sizes += [kind for both in self.buckets for kind in both]
        sizes += [batch.sizes for batch in (self.first, self.later, self.last) if batch is not None]
        most = sum(map(sum, sizes)) + sum(self.loading.sizes) // BLOCK
        count = sum(map(len, sizes)) + len(self.loading.sizes)
        shift = (_TIMES * (most + count * LARGE_SEGMENT // BLOCK)).bit_length()
        pools = range(len(self.first.passes))
        self.pools = [FlatPool(shift, small=n % 2 == 0) for n in pools]
        self.steps = 0
        #: For each pool, the blocks that the last micro-batch left, and the blocks of the step's gradients.
        self.left: list[list[Placed]] = [[] for _ in pools]
        self.gradients: list[list[Placed]] = [[] for _ in pools]
        self.placed_buckets: list[list[Placed]] = [[] for _ in pools]
        #: For each pool, the state at the start of each step after the first.
        self.start_states: list[list[StartState]] = [[] for _ in pools]
        #: The cached states of each pass of a pool, by the identity of the pass's items.
        self.pass_states: dict[int, PassStates] = {}
        #: For each pool, whether the steps repeat an earlier one.
        self.is_repeating = [False for _ in pools]
        #: For each pool, the rest of each step, and whether that of the last step was left out.
        self.rests = [None if resident.frees_gradients else rest_of_step(self.batches[-1], n) for n in pools]
        self.skipped_rest = [False for _ in pools]

    @property
    def reserved(self) -> int:
        """The bytes of all segments."""
        return sum(pool.reserved for pool in self.pools) * BLOCK

    def load(self) -> None:
        """Put the model on the device."""
        loaded = self.loading.loaded
        if loaded is None or loaded[0].shift != self.pools[0].shift:
            loaded = self.loading.loaded = self._loaded()
        for n, pool in enumerate(loaded):
            self.pools[n] = pool.copied()
            if self.buckets:
                self.placed_buckets[n] = _allocate(self.pools[n], self.buckets[0][n])

    def _loaded(self) -> tuple[FlatPool, FlatPool]:
        """Play the load in the pools of the first stream. Return them."""
        sizes = [*map(floordiv, self.loading.sizes, repeat(BLOCK))]
        places = [0] * len(sizes), [0] * len(sizes)
        small, large, *_ = self.pools
        by_pool = zip((small, large), parts_by_pool(self.loading.parts, sizes), strict=True)
        before = sum(load(pool, parts, sizes, places, self.loading.parts_before) for pool, parts in by_pool) * BLOCK
        self.loading.most_reserved = max(self.loading.most_reserved, before)
        return small, large

    def step(self) -> None:
        """Set gradients to None, run the micro-batches, clip, and run the optimizer's step."""
        for n, pool in enumerate(self.pools):
            if self.is_repeating[n]:
                continue
            rest = self.rests[n]
            if rest is not None and self.skipped_rest[n]:
                self.skipped_rest[n] = False
                self._rest(n, pool, rest)
            pool.free(self.gradients[n])
            if self.steps == 1 and len(self.buckets) > 1 and n < len(self.buckets[1]):
                pool.free(self.placed_buckets[n])
                self.placed_buckets[n] = _allocate(pool, self.buckets[1][n])
            start_state = StartState(pool, self.left[n])
            self.is_repeating[n] = any(map(start_state.repeats, self.start_states[n]))
            self.start_states[n] += [start_state] if self.steps else []
            if not self.is_repeating[n]:
                self._step(n, pool)
        if not self.steps:
            self.first.forget_workspaces()
        self.steps += 1

    def _step(self, n: int, pool: FlatPool) -> None:
        if self.steps and n < len(self.fetching) and self.fetching[n]:
            pool.allocate_and_free(self.fetching[n])
        *before, last = self.batches
        for batch in before:
            self._backward(n, pool, batch, self._forward(n, pool, batch))
        saved, rest = self._forward(n, pool, last), self.rests[n]
        if saved is not None or rest is None or not self.steps:
            self._backward(n, pool, last, saved)
            self._end_step(n, pool)
            return
        self._play(n, pool, last, 1, slice(0, rest.start))
        self.skipped_rest[n] = rest.repeats(pool, self.temporary_sizes[n] if n < len(self.states) else ())
        if not self.skipped_rest[n]:
            self._rest(n, pool, rest)

    def _rest(self, n: int, pool: FlatPool, rest: RestOfStep) -> None:
        """Play the rest of a step. Later steps are compared with the second one."""
        if self.steps == 1:
            rest.begin(pool)
        self._backward(n, pool, self.batches[-1], None, rest.start)
        if self.steps == 1:
            rest.end(pool)
        self._end_step(n, pool)

    def _end_step(self, n: int, pool: FlatPool) -> None:
        if self.resident.frees_gradients:
            pool.free(self.gradients[n])
            self.gradients[n] = []
        if n < len(self.states):
            self._optimizer_step(n, pool)

    def _optimizer_step(self, n: int, pool: FlatPool) -> None:
        if not self.steps:
            for sizes, times in self.states[n]:
                pool.allocate(sizes, times)
        if not pool.serves(self.needs[n]):
            pool.allocate_and_free(self.temporaries[n])

    def _outliving(self, n: int, batch: MicroBatch) -> list[int]:
        """Return the rows that outlive a micro-batch."""
        outliving = [*batch.gradients[n], *batch.left[n]]
        if not self.steps:
            outliving += [row for row in batch.workspace_rows if (batch.sizes[row] > SMALL) == n]
        return outliving

    def _forward(self, n: int, pool: FlatPool, batch: MicroBatch) -> Saved | None:
        """Run a forward pass. Return the state before it if few tensors outlive the micro-batch.

        The old loss and its graph are freed when the new loss is assigned to the same name.
        """
        if batch is self.last:
            batch.take(self.taken, self.first)
        saved = pool.save() if not batch.takes and len(self._outliving(n, batch)) <= FEW else None
        # Small tensors fill parts of segments. The same parts are left only after many layers.
        is_alike = n % 2 and not self.steps
        start = self._layers(n, pool, batch) if is_alike else 0
        self._play(n, pool, batch, 0, slice(start, None))
        pool.free(self.left[n])
        return saved

    def _backward(self, n: int, pool: FlatPool, batch: MicroBatch, saved: Saved | None, start: int = 0) -> None:
        """Run a backward pass, from an item on."""
        stopped = self._play(n, pool, batch, 1, slice(start, None), stops=saved is not None)
        if stopped and saved is not None:
            pool.restore(saved)
            pool.free(self.left[n])
            pool.take(_blocks(batch, self._outliving(n, batch)))
        self.left[n] = _blocks(batch, batch.left[n])
        if batch is not self.later:
            self.gradients[n] = _blocks(batch, batch.gradients[n])

    def _play(
        self, n: int, pool: FlatPool, batch: MicroBatch, number: int, part: slice, *, stops: bool = False
    ) -> bool:
        """Play a part of a pass. Return whether its end was left out."""
        items, places = batch.passes[n][number], batch.places
        states = self.pass_states.setdefault(id(items), PassStates(items))
        recurs = partial(states.recurs, pool=pool, places=places)
        stopped = play(
            pool,
            items[part],
            batch.sizes,
            places,
            stops=stops,
            recurs=lambda number: recurs(part.start + number),
            # The layers of forward passes are compared by the places of their transients (see `repetitions`).
            play_gap=partial(play_gap, pool, batch.sizes, places) if number else None,
            play_updates=partial(play_updates, pool, batch.sizes, places) if self.steps and not number else None,
        )
        if part.stop is None:
            states.end(pool, places)
        return stopped

    def _layers(self, n: int, pool: FlatPool, batch: MicroBatch) -> int:
        """Play a forward pass up to the end of its repeated layers. Layers with equal places are placed at once.

        Return the index of the first item after them. Only the first step calls this, since it adds the most segments.
        """

        def played(start: int, end: int) -> None:
            self._play(n, pool, batch, 0, slice(start, end))

        at = 0
        for start, length, repetitions in batch.repetitions(n):
            played(at, start)
            at = start + length * repetitions.times

            def layers(first: int, last: int, start: int = start, length: int = length) -> None:
                played(start + first * length, start + last * length)

            play_repetitions(pool, repetitions, batch.places, layers)
        return at


def _layers(resident: Iterable[ResidentTensors]) -> list[list[Layer]]:
    """Return the sizes of a layer's tensors in each pool of the first stream, and the number of such layers."""
    found: list[list[Layer]] = [[], []]
    for tensors, times in layers(resident):
        of_layer = _by_pool([tensor.bytes // tensor.count // BLOCK for tensor in tensors])
        for of_pool, sizes in zip(found, of_layer, strict=True):
            of_pool.extend([(sizes, times)] if sizes else [])
    return found


def _sizes(of_layers: Iterable[Layer]) -> list[int]:
    """Return the sizes of all layers."""
    return [size for sizes, times in of_layers for size in sizes * times]


def _by_pool(sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    return [size for size in sizes if size <= SMALL], [size for size in sizes if size > SMALL]


def _blocks(batch: MicroBatch, rows: Sequence[int]) -> list[Placed]:
    """Return the places of rows. They are copied, because the next micro-batch overwrites them."""
    return placed(rows, batch.places)


def _allocate(pool: FlatPool, sizes: list[int]) -> list[Placed]:
    places = [0] * len(sizes), [0] * len(sizes)
    pool.play(range(len(sizes)), sizes, places)
    return [*zip(*places, strict=True)]


def peak_reserved(resident: ResidentState, workspaces: tuple[int, int], loading: Loading | None = None) -> int:
    """Return the value of `torch.cuda.max_memory_reserved` in a run's steady state, in bytes.

    The result is that of `replay.full_peak_reserved`.
    """
    run = FastReplay(resident, workspaces, loading)
    run.load()
    before = 0
    while run.steps < 2 or (run.reserved > before and run.steps < MAX_STEPS):
        before = run.reserved
        run.step()
    return max(run.reserved, run.loading.most_reserved)
