"""A run's replay on a flat device. It can be saved after any part of a step and continued with another capacity."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.chunks import pool_count, pools_of
from calculator.allocator.flat_batch import FlatBatch, Outliving
from calculator.allocator.flat_device import FlatDevice
from calculator.allocator.flat_expandable import FlatExpandable
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.parts import ListedPart, Rows, TemporaryPart
from calculator.allocator.replay import PASSES
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT
from calculator.common.budget import check_budget
from calculator.common.deferred import Deferred
from calculator.sharding import ddp

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from calculator.allocator.flat_pool import Blocks, Places
    from calculator.allocator.parts import Part
    from calculator.allocator.replay import Replay
    from calculator.allocator.segment_moves import Moves
    from calculator.allocator.stage_cache import StageCache, StageResult
    from calculator.allocator.transients import Pool
    from calculator.devices.outcome import ReplayPhase

#: An upper bound on how often a run requests each row, including repeated requests.
_TIMES = 64


class Stage(NamedTuple):
    """A part of a step, after which a replay can be saved.

    Attributes:
        phase: The phase of the step.
        part: The events.
        rows: The rows of the events.
        ends_pass: Whether the old loss and its graph are freed after it.
        ends_batch: The micro-batch that ends with the stage, or None.
        takes: Rows that are gradients of an earlier micro-batch, each with the pool and the index of its place.
    """

    phase: ReplayPhase
    part: Part
    rows: Rows
    ends_pass: bool = False
    ends_batch: FlatBatch | None = None
    takes: Sequence[tuple[int, int, int]] = ()


class FlatRun:
    """The rows and events of a run, for any number of replays.

    Each micro-batch has rows of its own. Those of the first include the workspaces. Other rows belong to optimizer
    states, temporaries of the optimizer's step and DDP's buckets. The load has rows of its own too.
    """

    __slots__ = (
        "_last",
        "_rows_by_pool",
        "_taken",
        "accumulated",
        "batches",
        "buckets",
        "device",
        "frees_gradients",
        "has_streams",
        "load",
        "loading",
        "nothing",
        "pools",
        "rows",
        "stages",
    )

    def __init__(self, run: Replay, *, expandable: bool = False) -> None:
        workspaces = run.workspaces if any(run.workspaces) else None
        self.batches = [FlatBatch(run.first, workspaces), *([FlatBatch(run.later, None)] if run.later else [])]
        self._last = FlatBatch(run.last, None) if run.last else None
        self.rows = Rows()
        states = self.rows.add_resident(run.resident.replayed_states)
        temporaries = self.rows.add_resident(run.resident.replayed_temporaries)
        before = self.rows.add_resident(run.resident.while_fetching)
        found = run.resident.buckets
        #: The buckets of the first step, and those of later steps if DDP rebuilds them.
        self.buckets = [
            self.rows.add([bucket.bytes // BLOCK for bucket in buckets], lambda _: ddp.NAME)
            for buckets in ((found.first, found.steady)[: 1 + found.are_rebuilt] if found is not None else ())
        ]
        self.frees_gradients = run.training.has_bucket_views
        self.accumulated = run.repeats
        self.loading = run.loading
        load = Rows()
        load.add([size // BLOCK for size in run.loading.sizes], run.loading.names.__getitem__)
        every = [*(batch.rows for batch in self.batches), *([self._last.rows] if self._last else []), self.rows, load]
        count = max(pool_count(rows.streams) for rows in every)
        most = sum(sum(rows.sizes) + len(rows.sizes) * LARGE_SEGMENT // BLOCK for rows in every)
        bits = (_TIMES * most).bit_length()
        #: The number of pools. It is more than two if some tensors are not on the first stream.
        self.pools = count
        self._rows_by_pool: dict[int, tuple[Sequence[int], Sequence[int]]] = {}
        #: No blocks of any pool.
        self.nothing: Sequence[Blocks] = [((), ())] * count
        self.device: FlatDevice | FlatExpandable = (
            FlatExpandable(bits, count) if expandable else FlatDevice(bits + (count - 1).bit_length(), count)
        )
        for rows in every:
            rows.keys = pools_of(rows.sizes, rows.streams)
        for batch in (*self.batches, *([self._last] if self._last else [])):
            batch.gradients, batch.left = (Outliving(rows, batch.rows, count) for rows in batch.outliving)
        gradients = enumerate(self.batches[0].gradients.rows)
        places = {row: (number, n) for number, rows in gradients for n, row in enumerate(rows)}
        self._taken = [(row, *places[of_first]) for row, of_first in run.taken if of_first in places]
        #: The stages of the load, between which the cache is emptied.
        self.load = [self._listed("load", events, load) for events in run.loading.stages]
        clipped = Stage("optimizer_step", TemporaryPart(temporaries, self.rows), self.rows)
        fetching = [Stage("forward", TemporaryPart(before, self.rows), self.rows)] if before else []
        others = [*fetching, *self._passes(first=False), clipped]
        second = [self._listed("forward", self._rebuilding(), self.rows)] if len(self.buckets) > 1 else []
        #: The stages of the first step, of the second step, and of every later step.
        self.stages = (
            [*self._passes(first=True), self._listed("optimizer_step", states, self.rows), clipped],
            [*second, *others],
            others,
        )

    def _listed(self, phase: ReplayPhase, events: Sequence[int], rows: Rows) -> Stage:
        return Stage(phase, ListedPart(events, rows), rows)

    def _rebuilding(self) -> Sequence[int]:
        """Return the events that free the first buckets and allocate the others."""
        before, after = self.buckets
        return [*(~row for row in before), *after]

    def _passes(self, *, first: bool) -> Iterator[Stage]:
        """Yield the stages of all micro-batches. The first micro-batch of the first step allocates the workspaces."""
        for number, batch in enumerate([self.batches[0], *self.batches[1:] * self.accumulated]):
            yield from self._stages(batch, batch.parts_of_first if first and not number else batch.parts)
        if self._last is not None:
            start, *rest = self._stages(self._last, self._last.parts)
            yield start._replace(takes=self._taken)
            yield from rest

    @staticmethod
    def _stages(batch: FlatBatch, passes: list[list[Part]]) -> Iterator[Stage]:
        for n, parts in enumerate(passes):
            for part in parts[:-1]:
                yield Stage(PASSES[n], part, batch.rows)
            yield Stage(PASSES[n], parts[-1], batch.rows, ends_pass=True, ends_batch=batch if n else None)

    def makes_gradients(self, batch: FlatBatch | None) -> bool:
        """Return whether the gradients at the end of a micro-batch are those of the step."""
        return batch is not None and batch in (self.batches[0], self._last)

    def rows_by_pool(self, number: int) -> tuple[Sequence[int], Sequence[int]]:
        """Return the rows of a pool: those of all micro-batches, and other rows."""
        if number not in self._rows_by_pool:
            batches = (*self.batches, *([self._last] if self._last else []))
            found = {row for batch in batches for row, key in enumerate(batch.rows.keys) if key == number}
            others = [row for row, key in enumerate(self.rows.keys) if key == number]
            self._rows_by_pool[number] = [*found], others
        return self._rows_by_pool[number]

    @property
    def most_rows(self) -> int:
        """The number of rows of the largest micro-batch."""
        return max(len(batch.rows.sizes) for batch in (*self.batches, *([self._last] if self._last else [])))


class FlatReplay:
    """A replay of a run on a flat device, with the interface of `replay.Replay`."""

    __slots__ = (
        "allocator",
        "begun",
        "cached_results",
        "gradients",
        "left",
        "phase",
        "places",
        "refused",
        "run",
        "stage",
        "stage_cache",
        "steps",
        "total",
    )

    def __init__(self, run: FlatRun) -> None:
        self.run = run
        self.allocator = run.device.saved()
        #: The results of parts in other replays of the run. None if replays do not share results.
        self.stage_cache: StageCache | None = None
        #: For each pool, the shared result after the last stage. None if something was allocated or freed since.
        self.cached_results: list[StageResult | None] = [None] * run.pools
        #: The places of a micro-batch's rows, and of other rows.
        self.places: tuple[Places, Places] = _empty_places(run.most_rows), _empty_places(len(run.rows.sizes))
        #: The total memory of the device. None if the requests do not depend on it.
        self.total: int | None = None
        self.steps = 0
        #: The index of the next stage of the step, and the size that was reserved before the step's first stage.
        self.stage = self.begun = 0
        #: The stages in which a segment was refused in the last step.
        self.refused: set[int] = set()
        #: The phase that is running.
        self.phase: ReplayPhase = "load"
        #: The blocks of each pool that the last micro-batch left, and those of the step's gradients.
        self.left: Sequence[Blocks] = run.nothing
        self.gradients: Sequence[Blocks] = run.nothing

    def saved(self) -> FlatReplay:
        """Return a replay in the same state."""
        other = copy(self)
        other.allocator = self.allocator.saved()
        other.refused = self.refused.copy()
        other.cached_results = self.cached_results.copy()
        other.keep_places()
        return other

    def keep_places(self) -> None:
        """Copy the places of rows, because replays that share the lists may overwrite them."""
        of_batch, others = self.places
        self.places = (of_batch[0].copy(), of_batch[1].copy()), (others[0].copy(), others[1].copy())

    def load(self) -> None:
        """Load the model onto the device."""
        run = self.run
        sizes, stages = run.loading.for_device(self.total)
        places = _empty_places(len(sizes))
        for number, (stage, events) in enumerate(zip(run.load, stages, strict=True)):
            if number:
                self.allocator.empty_cache()
            if sizes is run.loading.sizes:
                self._play_stage(stage, places)
            else:
                units = [size // BLOCK for size in sizes]
                self._play(events, stage.rows, units, pools_of(units, ()), places)
        if run.buckets:
            self._play(run.buckets[0], run.rows, run.rows.sizes, run.rows.keys, self.places[1])
        self.phase = "forward"

    def step(self) -> None:
        """Set gradients to None, run the micro-batches, clip, and run the optimizer's step.

        If the step has begun, run the rest of it.
        """
        steps = self.steps
        while self.steps == steps:
            self.advance()

    def advance(self) -> None:
        """Run the next stage of the step."""
        check_budget()
        if not self.stage:
            self.begun = self.allocator.reserved
            self._free(self.gradients)
        stages = self.run.stages[min(self.steps, 2)]
        stage = stages[self.stage]
        self.phase = stage.phase
        if stage.phase == "optimizer_step" and self.run.frees_gradients:
            self._free(self.gradients)
            self.gradients = self.run.nothing
        for row, number, n in stage.takes:
            self.places[0][0][row], self.places[0][1][row] = (of[n] for of in self.gradients[number])
        self._play_stage(stage, self.places[stage.rows is self.run.rows])
        if stage.ends_pass:
            self._free(self.left)
            self.left = self.run.nothing
        if stage.ends_batch is not None:
            self.left = stage.ends_batch.left.blocks(self.places[0])
            if self.run.makes_gradients(stage.ends_batch):
                self.gradients = stage.ends_batch.gradients.blocks(self.places[0])
        self.stage += 1
        if self.stage == len(stages):
            self.stage = 0
            self.steps += 1

    def _play_stage(self, stage: Stage, places: Places) -> None:
        """Play a stage. If a segment is refused now, or was in the previous step, play it in smaller parts."""
        if self.stage not in self.refused:
            if self._play_separately(stage.part, stage.rows, places):
                return
            self.refused.add(self.stage)
        self._forget_pools()
        before, rows = self.allocator.retries, stage.rows
        for part in stage.part.split():
            if part is stage.part or not self._play_separately(part, rows, places):
                self._forget_pools()
                self._play(part.events(), rows, rows.sizes, rows.keys, places)
        if self.allocator.retries == before:
            self.refused.discard(self.stage)
        elif self.stage_cache is not None and isinstance(self.allocator, FlatDevice):
            self._close_gaps(self.allocator.close_gaps())

    def _play_separately(self, part: Part, rows: Rows, places: Places) -> bool:
        """Replay a part pool by pool, except in pools whose result is cached.

        Return False if a segment is refused.
        """
        allocator, cache = self.allocator, None if self.phase == "load" else self.stage_cache

        def play(number: int, pool: Pool) -> None:
            part.play(number, pool, rows.sizes, places)

        if cache is None or isinstance(allocator, FlatExpandable):
            before = _copied(places)
            return allocator.play_separately(play) or _restore(places, before)
        stage = cache.of(part, rows, places, self.cached_results)
        done = allocator.play_separately(play, stage)
        if not done:
            stage.restore()
        return done

    def _close_gaps(self, moves: Mapping[int, Moves]) -> None:
        """Move what is in pools whose gaps were closed. Replays that reach the same addresses share what follows."""
        for number, of_pool in moves.items():
            for rows, places in zip(self.run.rows_by_pool(number), self.places, strict=True):
                for addresses in places:
                    for row in rows:
                        addresses[row] = of_pool.moved(addresses[row])
            self.left = _moved(self.left, number, of_pool)
            self.gradients = _moved(self.gradients, number, of_pool)

    def _free(self, blocks: Sequence[Blocks]) -> None:
        """Free blocks of each pool."""
        if self.stage_cache is None or isinstance(self.allocator, FlatExpandable):
            self.allocator.free(blocks)
        else:
            self.allocator.free_once(blocks, self.stage_cache, self.cached_results)

    def _forget_pools(self) -> None:
        self.cached_results = [None] * self.run.pools

    def layout(self) -> Layout:
        """Return the state that the requests of the next step depend on.

        The next step begins by freeing all gradients.
        """
        return Layout(self)

    def _play(
        self, events: Sequence[int], rows: Rows, sizes: Sequence[int], keys: Sequence[int], places: Places
    ) -> None:
        try:
            self.allocator.play(events, sizes, keys, places)
        except OutOfMemoryError as error:
            error.tensor = rows.name(error.row)
            raise


class Layout:
    """The state that the requests of a step depend on.

    The details are only computed if the numbers of segments do not tell two steps apart.
    """

    __slots__ = ("_counts", "_found")
    __hash__ = None  # type: ignore[assignment]  # it is compared alone

    def __init__(self, run: FlatReplay) -> None:
        allocator, left, gradients = run.allocator.saved(), run.left, run.gradients
        self._counts = allocator.counts()
        self._found = Deferred(lambda: allocator.layout(left, gradients))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self._counts == other._counts and self._found == other._found


def _moved(blocks: Sequence[Blocks], number: int, moves: Moves) -> Sequence[Blocks]:
    """Return blocks of each pool after those of one pool were moved."""
    addresses, ends = blocks[number]
    moved = tuple(map(moves.moved, addresses)), tuple(map(moves.moved, ends))
    return [*blocks[:number], moved, *blocks[number + 1 :]]


def _empty_places(count: int) -> Places:
    return [0] * count, [0] * count


def _copied(places: Places) -> Places:
    addresses, end_addresses = places
    return [*addresses], [*end_addresses]


def _restore(places: Places, before: Places) -> bool:
    """Undo what a part wrote to `places` before a segment was refused. Return False.

    A part may overwrite the place of a row that it has freed and allocated again.
    """
    for places_of_pool, earlier in zip(places, before, strict=True):
        places_of_pool[:] = earlier
    return False
