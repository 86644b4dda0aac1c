"""The allocations of a step under stage 3 in order, for replays of the caching allocator.

Parameters that stay gathered between steps are gathered again when a step ends. A replay keeps them gathered instead.

Source: deepspeed/runtime/zero/stage3.py, partitioned_param_coordinator.py and partition_parameters.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ALLOCATION_ROUNDING, allocated
from calculator.engine.autograd import GRADIENT_OF
from calculator.sharding.zero.replayed import (
    FLAT,
    GATHERS,
    IN_FLOAT32,
    IN_FLOAT64,
    REDUCTIONS,
    StepEvents,
)
from calculator.sharding.zero3.copies import substitutes_of
from calculator.sharding.zero3.followed import Followed
from calculator.sharding.zero3.gathering import Gathering
from calculator.sharding.zero3.parameters import Live
from calculator.sharding.zero3.program import Program
from calculator.sharding.zero3.reduction import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.repetition import Repetition
    from calculator.engine.tape import Tape
    from calculator.sharding.zero3.parameters import Partitioned, Storage
    from calculator.sharding.zero3.state import PartitionedState
    from calculator.sharding.zero3.track import Track


class Change(NamedTuple):
    """An allocation or a free of gathered weights, before the event at a position of the tape."""

    position: int
    is_allocated: bool
    #: The number of the storage, and its bytes.
    storage: int
    size: int


class LoggedLive(Live):
    """The bytes alive, with a log of every change in order."""

    __slots__ = ("_allocated", "_numbers", "changes")

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Change] = []
        #: The numbers of the storages that are alive, by their ids.
        self._numbers: dict[int, int] = {}
        self._allocated = 0

    def add(self, size: int, represents: int = 1, of: Storage | None = None) -> None:
        """Allocate some bytes."""
        super().add(size, represents)
        if of is not None:
            self._numbers[id(of)] = number = self._allocated
            self._allocated += 1
            self.changes.append(Change(self.position, is_allocated=True, storage=number, size=of.bytes))

    def free(self, size: int, represents: int = 1, of: Storage | None = None) -> None:
        """Free some bytes."""
        super().free(size, represents)
        if of is not None:
            number = self._numbers.pop(id(of))
            self.changes.append(Change(self.position, is_allocated=False, storage=number, size=of.bytes))


class LoggedGathering(Gathering):
    """The steps of a run, with all layers followed, and the changes in each micro-batch of the last step."""

    @property
    def _reuses(self) -> bool:
        """The changes of every micro-batch are logged."""
        return False

    def _started(self) -> Live:
        #: The changes of each micro-batch of the last step, and the changes at its end.
        self.changes_by_pass: list[list[Change]] = []
        self.at_end: list[Change] = []
        self._log = LoggedLive()
        return self._log

    def _micro_batches(self, count: int, micro_batches: int) -> None:
        self.changes_by_pass = []
        super()._micro_batches(count, micro_batches)

    def _pass(self, program: Program, micro_batches: int) -> list[Track]:
        self._log.changes = []
        tracks = super()._pass(program, micro_batches)
        self.changes_by_pass.append(self._log.changes)
        return tracks

    def _end_step(self) -> None:
        self._log.changes = self.at_end = []
        super()._end_step()


class LoggedBucket(Bucket):
    """The gradient bucket, with a log of the allocations of its reductions."""

    __slots__ = ("_events", "_item_dtype", "_large_rows", "_stream")

    def __init__(self, state: PartitionedState, events: StepEvents, stream: int) -> None:
        super().__init__(state.sizes, Live(), state.dtype)
        self._events, self._item_dtype, self._stream = events, state.dtype, stream
        self._large_rows: list[int] = []

    def ready(self, gradient: Partitioned, row: int | None) -> None:
        """Take a gradient that is ready. A gradient that is too large for the buffer stays where it is."""
        if self.is_full(gradient):
            self.reduce()
        if self._elements + gradient.elements > self._sizes.reduce_bucket and row is not None:
            self._events.keep(row)
            self._large_rows.append(row)
        self.add(gradient)

    def reduce(self) -> None:
        """Reduce the gradients."""
        if not self._parameters:
            return
        scatters = self._sizes.reduce_scatter or self._elements > self._sizes.reduce_bucket
        stays = scatters and len(self._parameters) == 1 and self._elements % self._sizes.ranks == 0
        rows = [self._add_row("gradients, cast", self._cast)] if self._cast else []
        if scatters and not stays:
            rows += [
                self._add_row("padding of gradients", size)
                for parameter in self._parameters
                for size in self._paddings(parameter.elements, parameter.partition)
            ]
            rows.append(self._add_row("gradients that are reduced", self._scattered()[0]))
        elif not scatters:
            rows.append(self._add_row("gradients that are reduced", allocated(self._elements, self._item)))
            rows += [self._add_row("padded part of a gradient", size) for size in self._padded_parts()]
        self._events.free([*rows, *self._large_rows])
        self._large_rows = []
        self._runs, self._elements, self._large, self._cast = [], 0, 0, 0

    def _add_row(self, name: str, size: int) -> int:
        return self._events.allocate(name, size, self._item_dtype, stream=self._stream)


class PartitionedStep:
    """The step of a rank. All ranks allocate the same."""

    def __init__(self, state: PartitionedState, tape: Tape, repetition: Repetition) -> None:
        self._state, prepared = state, state.prepared
        self.events = StepEvents(tape, prepared.device.sharding, offloads=prepared.offloads_activations)
        overlaps = state.zero.overlap_comm is not False
        self._gathers, self._reductions = (GATHERS, REDUCTIONS) if overlaps else (0, 0)
        gathering = _gathering(state, tape, repetition)
        self._gradients = {
            position: parameter
            for segment in gathering.program.segments
            for position, kind, _, parameter, _ in segment.events
            if kind == GRADIENT_OF and parameter is not None
        }
        self._rows: dict[int, int] = {}
        bucket = LoggedBucket(state, self.events, self._reductions)
        for number, changes in enumerate(gathering.changes_by_pass):
            bucket.is_last = number == len(gathering.changes_by_pass) - 1
            self._micro_batch(changes, bucket, gathering.program.end)
        self._change(change for change in gathering.at_end if not change.is_allocated)
        self.update = len(self.events.events)
        self._update()

    def _micro_batch(self, changes: list[Change], bucket: LoggedBucket, end: int) -> None:
        events, at = self.events, 0
        events.begin()
        for position in sorted({*(change.position for change in changes), *self._gradients, end}):
            events.play_to(position)
            start = at
            while at < len(changes) and changes[at].position == position:
                at += 1
            self._change(changes[start:at])
            if position in self._gradients:
                bucket.ready(self._gradients[position], events.gradient_at(position))
        bucket.reduce()
        events.finish()

    def _change(self, changes: Iterator[Change] | list[Change]) -> None:
        """Allocate and free gathered weights.

        Weights that were gathered before the step, or that a graph keeps, are not freed.
        """
        events, dtype = self.events, self._state.dtype
        for _, is_allocated, storage, size in changes:
            if is_allocated:
                self._rows[storage] = events.allocate("gathered weights", size, dtype, "base_weights", self._gathers)
            elif storage in self._rows:
                events.free([self._rows.pop(storage)])

    def _update(self) -> None:
        """Compute the norms, copy each sub-group's gradients to float32, and update.

        The largest sub-group's float32 gradients are alive while it is updated.
        """
        state, events = self._state, self.events
        largest = state.largest
        for group in state.sub_groups:
            sizes = [parameter.partition for parameter in group]
            at = max(range(len(sizes)), key=lambda at: (allocated(sizes[at], 8) + ALLOCATION_ROUNDING * at, -at))
            events.free([events.allocate_elements(IN_FLOAT64, sizes[at], "float64")])
        others = [number for number in range(len(state.sub_groups)) if number != largest]
        for number in (*others, largest):
            several, casts = len(state.sub_groups[number]) > 1, state.dtype != "float32"
            like = state.like_sub_group
            copied = events.allocate_like(like(number, FLAT, state.dtype, "gradients")) if several else []
            if casts:
                copies = events.allocate_like(like(number, IN_FLOAT32, component="gradients"))
                events.free(copied)
            else:
                copies = copied
            if number != largest:
                events.free(copies)


def _gathering(state: PartitionedState, tape: Tape, repetition: Repetition) -> LoggedGathering:
    followed = Followed(repetition=repetition, before=repetition.copies + 1, skipped=0)
    parameters = state.parameters(followed)
    return LoggedGathering(
        Program(tape, (), followed, [*parameters.own, *parameters.second], substitutes_of(state.prepared)),
        followed,
        parameters,
        (state.sizes, state.sizes_of_second),
        state.prepared.training.gradient_accumulation_steps,
        keeps_loss=state.prepared.training.trainer is None,
    )
