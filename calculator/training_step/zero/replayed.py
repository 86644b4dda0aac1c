"""The allocations of one rank's step under stages 1 and 2 in order, for replays of the caching allocator.

Source: deepspeed/runtime/zero/stage_1_and_2.py.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from calculator.engine.autograd import GRADIENT_OF
from calculator.inputs.sharding import STAGES
from calculator.sharding.zero.backward import EPILOGUE
from calculator.sharding.zero.parameters import Key, gradient_key
from calculator.sharding.zero.replayed import (
    FLAT,
    IN_FLOAT32,
    IN_FLOAT64,
    MICRO_BATCHES,
    REDUCTIONS,
    StepEvents,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from calculator.engine.tape import Tape
    from calculator.sharding.zero.partitions import Place
    from calculator.sharding.zero.state import FlatState


class FlatStep:
    """The step of a rank: micro-batches, whose gradients are reduced bucket by bucket, and the optimizer's step."""

    def __init__(self, state: FlatState, tape: Tape, rank: int) -> None:
        self._state, self._plan, self._rank = state, state.plan, rank
        prepared = state.prepared
        self.events = StepEvents(tape, prepared.device.sharding, offloads=prepared.offloads_activations)
        self._is_stage_2 = STAGES[state.prepared.device.sharding] == 2
        self._marks = [*_gradients(tape)]
        self._stream = REDUCTIONS if self._plan.buffers > 1 else 0
        #: The rows of the buckets, and by parameter the rows of whole gradients of earlier micro-batches.
        self._buckets: list[int] = []
        self._whole: dict[Key, int] = {}
        #: The gradients in the bucket, their number of elements, and the row of a gradient that is larger than the
        #: bucket.
        self._bucket: list[Place] = []
        self._filled = 0
        self._waiting: int | None = None
        #: The rows of large gradients that this rank keeps although it owns no part of them.
        self._kept: list[int] = []
        #: The rows of this rank's gradients, and of gradients that a later micro-batch adds to them.
        self._own: list[int] = []
        self._added: list[int] = []
        #: By group, the rows of zeros among this rank's gradients.
        self._zeros: list[list[int]] = []
        #: Whether the micro-batch is the last one of the step.
        self._is_last = False
        count = min(MICRO_BATCHES, state.prepared.training.gradient_accumulation_steps)
        for number in range(count):
            self._micro_batch(is_last=number == count - 1)
        #: The number of events before the optimizer's step.
        self.update = len(self.events.events)
        self._update()

    def _micro_batch(self, *, is_last: bool) -> None:
        events, reduces = self.events, is_last or self._is_stage_2
        self._is_last = is_last
        events.begin()
        for position, key in self._marks:
            events.play_to(position)
            if key is not None:
                self._ready(key, events.gradient_at(position), reduces=reduces)
                continue
            if reduces:
                self._end_reductions(is_last=is_last)
        events.finish()

    def _ready(self, key: Key, row: int | None, *, reduces: bool) -> None:
        """Take a gradient that is ready. It is copied to the bucket, or kept with the others."""
        plan, events = self._plan, self.events
        if not self._buckets:
            size = plan.bucket_bytes // plan.buffers
            self._buckets = [events.allocate("reduction bucket", size, plan.dtype) for _ in range(plan.buffers)]
        if key in self._whole:
            if reduces and plan.streams:
                self._add(key, self._whole.pop(key), is_whole=True)
        elif not reduces or not plan.streams:
            if row is not None:
                events.keep(row)
                self._whole[key] = row
        else:
            self._add(key, row, is_whole=False)

    def _add(self, key: Key, row: int | None, *, is_whole: bool) -> None:
        """Copy a gradient to the bucket. A larger gradient stays where it is.

        `is_whole`: whether the tape does not free it.
        """
        plan, events, place = self._plan, self.events, self._plan.partitions.place(key)
        if self._filled + place.elements > plan.bucket_size:
            self._reduce()
        if place.elements > plan.bucket_size:
            self._waiting = self._set_aside(row, is_whole=is_whole)
        elif is_whole and row is not None:
            events.free([row])
        self._bucket.append(place)
        self._filled += place.elements

    def _set_aside(self, row: int | None, *, is_whole: bool) -> int | None:  # noqa: ARG002  an override reads it
        """Keep a gradient that is larger than the bucket."""
        if row is not None:
            self.events.keep(row)
        return row

    def _reduce(self) -> None:
        """Reduce the bucket, and copy the part that belongs to this rank to its partition."""
        events, plan = self.events, self._plan
        for elements in self._copies():
            events.free([events.allocate_elements("gradients, flat", elements, plan.dtype, stream=self._stream)])
        self._take_own()
        if self._waiting is not None:
            if self._is_stage_2 or self._rank in self._bucket[0].ranks:
                events.free([self._waiting])
            else:
                self._kept.append(self._waiting)
        self._bucket, self._filled, self._waiting = [], 0, None

    def _take_own(self) -> None:
        """Copy what belongs to this rank to its gradients, which are allocated for the first part of them."""
        if not self._added and any(self._rank in place.ranks for place in self._bucket):
            gradients, _ = self._state.gradients_of(self._rank)
            self._added = [row for gradient in gradients for row in self.events.allocate_like(gradient, self._stream)]

    def _copies(self) -> Iterator[int]:
        """Yield the elements of each flat copy.

        Parts for several ranks are copied together. A single part is a view.
        """
        plan = self._plan
        if not plan.copies or not self._bucket:
            return
        parts = elements = 0
        slices = (part for place in self._bucket for part in plan.partitions.slices(place))
        for _, run in groupby(slices, lambda part: part[0]):
            parts, elements = parts + 1, elements + sum(size for _, size in run)
            if elements > plan.bucket_size:
                yield from [elements] * (parts > 1)
                parts = elements = 0
        yield from [elements] * (parts > 1)

    def _end_reductions(self, *, is_last: bool) -> None:
        """Reduce the gradients that are left after the backward pass."""
        events, plan, state = self.events, self._plan, self._state
        if not plan.streams:
            for layer, gradients in plan.in_order:
                for name in gradients.names:
                    if (key := Key(name, layer)) in self._whole:
                        self._add(key, self._whole.pop(key), is_whole=True)
        self._reduce()
        zeros = [[*events.allocate_like(tensor)] if tensor else [] for tensor in state.zeros_of(self._rank)]
        padding = state.padding_of(self._rank) if is_last else ()
        self._added += [row for rows in zeros for row in rows]
        self._added += [row for tensor in padding if tensor is not None for row in events.allocate_like(tensor)]
        if self._own:
            events.free(self._added)
        else:
            self._own, self._zeros = self._added, zeros
        self._added = []
        events.free(self._buckets)
        self._buckets = []

    def _update(self) -> None:
        """Compute the norms, copy each group's gradients to float32, and update.

        The largest group's float32 gradients are alive while the optimizer updates.
        """
        state, events = self._state, self.events
        groups = state.partitions.groups
        largest = state.largest
        for owned in state.owned[self._rank]:
            if owned.largest is not None:
                _, size = owned.largest
                events.free([events.allocate_elements(IN_FLOAT64, size, "float64")])
        for number in (*(at for at in range(len(groups)) if at != largest), largest):
            self._copy(number, is_last=number == largest == len(groups) - 1, stays=number == largest)

    def _copy(self, number: int, *, is_last: bool, stays: bool) -> None:
        """Copy a group's gradients to one float32 tensor.

        A single gradient is not flattened first. A single float32 gradient is not copied at all.
        """
        state, events, rank = self._state, self.events, self._rank
        several = state.owned[rank][number].parameters + bool(state.partitions.groups[number].padding(rank)) > 1
        partition, dtype = state.partitions.groups[number].partition, state.dtype
        copied = [events.allocate_elements(FLAT, partition, dtype, "gradients")] if several else []
        master: list[int] = []
        if dtype != "float32":
            master = [events.allocate_elements(IN_FLOAT32, partition, "float32", "gradients")]
        else:
            master, copied = copied, []
        events.free(copied)
        if stays and dtype != "float32":
            events.free(self._zeros[number])
            self._own = [row for row in self._own if row not in self._zeros[number]]
        if is_last and master:
            events.free([*self._own, *self._kept])
        if not stays:
            events.free(master)


def _gradients(tape: Tape) -> Iterator[tuple[int, Key | None]]:
    """Yield the positions at which gradients are ready, with their parameters, and the end of the pass."""
    backward = next(at for at, label in tape.marks if label == "backward")
    layer = 0
    for position, label in tape.marks:
        if position < backward:
            continue
        if label.startswith("layer ") and label.endswith("backward"):
            layer = int(label.split()[1]) - 1
        elif label.startswith(GRADIENT_OF):
            yield position, gradient_key(label, layer)
        elif label == EPILOGUE:
            yield position, None
