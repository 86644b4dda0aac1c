"""A run's replay on a flat device, of every event, which can go on from the end of a step with another capacity."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, NamedTuple

from calculator.allocator.flat_device import FlatDevice
from calculator.allocator.flat_expandable import FlatExpandable
from calculator.allocator.loading import one_by_one
from calculator.allocator.out_of_memory import OutOfMemoryError
from calculator.allocator.replay import LATER_MICRO_BATCHES, PASSES, WORKSPACE
from calculator.allocator.segments import BLOCK, LARGE_SEGMENT
from calculator.sharding import ddp

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from calculator.allocator.flat_device import Apart
    from calculator.allocator.flat_pool import Placed, Places
    from calculator.allocator.replay import Batch, Replay
    from calculator.devices.outcome import ReplayPhase
    from calculator.resident.per_parameter import ResidentTensors

#: A run requests every row in as many steps at most, with a margin, and after each may free and request again.
_TIMES = 64
#: The parts of a pass after which a replay can be saved.
_PARTS = 4


class Stage(NamedTuple):
    """A part of a step, after which a replay can be saved. None of its rows is allocated after it was freed.

    Attributes:
        phase: The phase of the step.
        events: Its events.
        ends_pass: Whether the old loss and its graph are freed after it.
        ends_batch: The micro-batch that ends with it.
    """

    phase: ReplayPhase
    events: Sequence[int]
    ends_pass: bool = False
    ends_batch: FlatBatch | None = None


class FlatRun:
    """The rows and events of a run, for any number of replays.

    Rows of the first and of later micro-batches come first, then workspaces, optimizer states, temporaries of the
    optimizer step, DDP's buckets, and the load.
    """

    __slots__ = (
        "_apart",
        "_names",
        "accumulated",
        "batches",
        "buckets",
        "device",
        "frees_gradients",
        "keys",
        "load",
        "loading",
        "sizes",
        "stages",
        "states",
        "temporaries",
        "workspaces",
    )

    def __init__(self, run: Replay, *, expandable: bool = False) -> None:
        self.sizes: list[int] = []
        self._names: list[tuple[int, Callable[[int], str]]] = []
        self.batches = [self._batch(batch) for batch in (run.first, run.later) if batch is not None]
        self.workspaces = self._rows([workspace // BLOCK for workspace in run.workspaces], lambda _: WORKSPACE)
        self.states = self._resident(run.resident.optimizer_states)
        self.temporaries = self._resident(run.resident.step_temporaries)
        found = run.resident.buckets
        #: The buckets of the first step, and of the others where they are rebuilt.
        self.buckets = [
            self._rows([bucket.bytes // BLOCK for bucket in each], lambda _: ddp.NAME)
            for each in ((found.first, found.steady)[: 1 + found.are_rebuilt] if found is not None else ())
        ]
        self.frees_gradients = run.training.has_bucket_views
        self.accumulated = min(run.training.gradient_accumulation_steps - 1, LATER_MICRO_BATCHES)
        self.loading = run.loading
        self.load = self._rows([size // BLOCK for size in run.loading.sizes], run.loading.names.__getitem__)
        most = sum(self.sizes) + len(self.sizes) * LARGE_SEGMENT // BLOCK
        bits = (_TIMES * most).bit_length()
        self.device: FlatDevice | FlatExpandable = FlatExpandable(bits) if expandable else FlatDevice(bits + 1)
        # Equal sizes are one object: rows that are read after each other are then in the processor's cache.
        kinds = {size: size for size in self.sizes}
        self.sizes = [kinds[size] for size in self.sizes]
        self.keys = self.device.keys(self.sizes)
        others = [*self._stages(first=False)]
        second = [Stage("forward", self._rebuilding()), *others] if len(self.buckets) > 1 else others
        #: The stages of the first step, of the second, and of every other.
        self.stages = [*self._stages(first=True)], second, others
        self._apart: dict[int, Apart] = {}

    def apart(self, stage: Stage) -> Apart:
        """The events of a stage's small and of its large rows."""
        key = id(stage.events)
        if key not in self._apart:
            large = self.keys
            both: Apart = [], []
            for event in stage.events:
                both[large[event if event >= 0 else ~event]].append(event)
            self._apart[key] = both
        return self._apart[key]

    def name(self, row: int) -> str:
        """The name of a row's tensor."""
        start, name = next(part for part in reversed(self._names) if part[0] <= row)
        return name(row - start)

    def _rows(self, sizes: Sequence[int], name: Callable[[int], str]) -> range:
        start = len(self.sizes)
        self.sizes += sizes
        self._names.append((start, name))
        return range(start, len(self.sizes))

    def _resident(self, resident: Iterable[ResidentTensors]) -> range:
        tensors = one_by_one(resident)
        sizes = [tensor.bytes // tensor.count // BLOCK for tensor in tensors]
        return self._rows(sizes, lambda n: tensors[n].name)

    def _batch(self, batch: Batch) -> FlatBatch:
        rows = batch.events.rows
        start = self._rows([row[4] // BLOCK for row in rows], lambda n: rows[n][0]).start
        return FlatBatch(batch, start)

    def _rebuilding(self) -> Sequence[int]:
        """The events that free the first buckets and allocate the others."""
        before, after = self.buckets
        return [*(~row for row in before), *after]

    def _stages(self, *, first: bool) -> Iterator[Stage]:
        for batch in [self.batches[0], *self.batches[1:] * self.accumulated]:
            for n, events in enumerate(batch.passes):
                passed = events
                if first and batch is self.batches[0]:
                    passed = [*events[: batch.starts[n]], self.workspaces[n], *events[batch.starts[n] :]]
                part = -(-len(passed) // _PARTS) or 1
                parts = [passed[at : at + part] for at in range(0, len(passed), part)]
                for each in parts[:-1]:
                    yield Stage(PASSES[n], each)
                yield Stage(PASSES[n], parts[-1] if parts else (), ends_pass=True, ends_batch=batch if n else None)
        states = self.states if first else ()
        yield Stage("optimizer_step", [*states, *self.temporaries, *(~row for row in self.temporaries)])


class FlatBatch:
    """A micro-batch's events with the rows of a run."""

    __slots__ = ("gradients", "left", "passes", "starts")

    def __init__(self, batch: Batch, start: int) -> None:
        passes = (batch.forward, batch.backward)
        self.passes = [_numbered(events, start) for events in passes]
        self.starts = [batch.events.first_product(events) for events in passes]
        self.gradients = [row + start for row in batch.events.gradients]
        self.left = [row + start for row in batch.events.left]


class FlatReplay:
    """A run on a device, as `replay.Replay`."""

    __slots__ = (
        "allocator",
        "begun",
        "gradients",
        "keys",
        "left",
        "phase",
        "places",
        "refused",
        "run",
        "sizes",
        "stage",
        "steps",
        "total",
    )

    def __init__(self, run: FlatRun) -> None:
        self.run = run
        self.allocator = run.device.saved()
        self.sizes, self.keys = run.sizes, run.keys
        self.places: Places = [0] * len(run.sizes), [0] * len(run.sizes)
        #: The device's memory; None where it does not change what is requested.
        self.total: int | None = None
        self.steps = 0
        #: The stage of the step that is next, and what was reserved before the step's first one.
        self.stage = self.begun = 0
        #: The stages in which a segment was refused, in the last step.
        self.refused: set[int] = set()
        #: What runs at the moment.
        self.phase: ReplayPhase = "load"
        self.left: list[Placed] = []
        self.gradients: list[Placed] = []

    def saved(self) -> FlatReplay:
        """A replay in the same state."""
        other = copy(self)
        other.allocator = self.allocator.saved()
        other.places = self.places[0].copy(), self.places[1].copy()
        other.refused = self.refused.copy()
        return other

    def load(self) -> None:
        """Load the model onto the device."""
        sizes, events = self.run.loading.on(self.total)
        start = self.run.load.start
        if sizes is not self.run.loading.sizes:
            self.sizes = [*self.run.sizes[:start], *[size // BLOCK for size in sizes]]
            self.keys = self.allocator.keys(self.sizes)
        self._play(_numbered(events, start))
        self._play([row for rows in self.run.buckets[:1] for row in rows])
        self.phase = "forward"

    def step(self) -> None:
        """Set gradients to None, run the micro-batches, clip, and run the optimizer's step; or what is left of it."""
        steps = self.steps
        while self.steps == steps:
            self.advance()

    def advance(self) -> None:
        """Run the next stage of the step."""
        if not self.stage:
            self.begun = self.allocator.reserved
            self._free(self.gradients)
        stages = self.run.stages[min(self.steps, 2)]
        stage = stages[self.stage]
        self.phase = stage.phase
        if stage.phase == "optimizer_step" and self.run.frees_gradients:
            self._free(self.gradients)
            self.gradients = []
        self._play_stage(stage)
        if stage.ends_pass:
            self._free(self.left)
            self.left = []
        if stage.ends_batch is not None:
            self.left = self._blocks(stage.ends_batch.left)
            if stage.ends_batch is self.run.batches[0]:
                self.gradients = self._blocks(stage.ends_batch.gradients)
        self.stage += 1
        if self.stage == len(stages):
            self.stage = 0
            self.steps += 1

    def _play_stage(self, stage: Stage) -> None:
        allocator = self.allocator
        if isinstance(allocator, FlatDevice) and self.stage not in self.refused:
            if allocator.plays_apart(self.run.apart(stage), self.sizes, self.places):
                return
            self.refused.add(self.stage)
        before = allocator.retries
        self._play(stage.events)
        if allocator.retries == before:
            self.refused.discard(self.stage)

    def layout(self) -> object:
        """What the requests of the next step depend on: it begins by freeing all gradients."""
        return self.allocator.layout(self.left, self.gradients)

    def _blocks(self, rows: Sequence[int]) -> list[Placed]:
        addresses, behinds = self.places
        return [(addresses[row], behinds[row]) for row in rows if self.sizes[row]]

    def _free(self, blocks: Sequence[Placed]) -> None:
        sizes = [behind - address for address, behind in blocks]
        places = [address for address, _ in blocks], [behind for _, behind in blocks]
        self.allocator.play(range(-len(blocks), 0), sizes, self.allocator.pools(places[0]), places)

    def _play(self, events: Sequence[int]) -> None:
        try:
            self.allocator.play(events, self.sizes, self.keys, self.places)
        except OutOfMemoryError as error:
            error.tensor = self.run.name(error.row)
            raise


def _numbered(events: Sequence[int], start: int) -> Sequence[int]:
    """Events whose rows begin at a number."""
    return [event + start if event >= 0 else event - start for event in events] if start else events
