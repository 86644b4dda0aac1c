"""The reduction of gradients in stages 1 and 2. A bucket is filled, reduced, and copied to each rank's partition.

Consecutive gradients that fit into the bucket are added at once, because only their peak moment counts.

Source: deepspeed/runtime/zero/stage_1_and_2.py, reduce_independent_p_g_buckets_and_remove_grads, average_tensor and
copy_grads_in_partition.
"""

from __future__ import annotations

from functools import cached_property
from itertools import accumulate, chain, groupby
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.sharding.zero.backward import At
from calculator.sharding.zero.parameters import Key
from calculator.sharding.zero.plan import Point, Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from calculator.sharding.zero.backward import BackwardPass, Stretch
    from calculator.sharding.zero.partitions import Place
    from calculator.sharding.zero.plan import Gradients, Plan


_SIZE = attrgetter("bytes")
_RANKS = attrgetter("ranks")


class Large(NamedTuple):
    """A gradient that is larger than the bucket: the last interval before its owners free it, and their ranks."""

    interval: int
    bytes: int
    ranks: range


class Copy(NamedTuple):
    """The part of a gradient in a rank's partition: the interval in which it is copied, its elements, and the layer."""

    interval: int
    elements: int
    layer: int


class Reduction:
    """The reduction in the backward pass of a step's last micro-batch.

    `intervals` has two points for each reduction: the peak point up to its end, and the point right after it, at
    which a rank copies the gradients of its partition. `reduced` has, by rank, the last interval before the rank has
    its buffer for these gradients. `large` are the gradients that are larger than the bucket. `copies` has what each
    rank copies to the host. `keeps_line`: whether to store every point, for the peak of each layer.
    """

    def __init__(self, plan: Plan, *, keeps_line: bool = False) -> None:
        self._plan, self._bucket_bytes, self._keeps_line = plan, plan.bucket_bytes, keeps_line
        self.intervals: list[Point] = []
        self.reduced: dict[int, int] = {}
        self.large: list[Large] = []
        self.copies: dict[int, list[Copy]] = {}
        self._open: Point | None = None
        #: The gradients in the bucket, and their number of elements.
        self._bucket: list[Place] = []
        self._filled = 0
        #: The bytes of gradients that are tensors of their own, and those of gradients that are larger than the bucket.
        self._gradient_bytes = plan.accumulated
        self._large = 0
        #: The bytes of a large gradient that is reduced instead of a bucket, while it waits.
        self._waiting = 0
        self._has_bucket = bool(plan.accumulated)
        #: By layer of the backward pass, the interval and the bytes of every point, if they are stored.
        self.line: list[list[tuple[int, int]]] = [[]]

    def run(self, passed: BackwardPass) -> Reduction:
        """Reduce the gradients of a backward pass."""
        plan = self._plan
        self._pass(passed)
        if not plan.streams:
            for layer, gradients in plan.in_order:
                self._add_all(layer, gradients, passed.end)
        self._reduce(passed.end)
        self._close_interval()
        return self

    def _pass(self, passed: BackwardPass) -> None:
        """Run the hooks of all gradients, and record the moments between them."""
        for stretches in passed.runs:
            streams = [Stream(stretch, self._plan.partitions) for stretch in stretches]
            for copy in stretches[0].copies if stretches else ():
                for stream in streams:
                    self._run(stream, copy)
        self._note(passed.end)

    def _run(self, stream: Stream, copy: int) -> None:
        """Run a copy of a stretch. Gradients that have no effect of their own are added at once."""
        stretch, plan, more = stream.stretch, self._plan, stream.stretch.excess_bytes(copy)
        if stretch.enters:
            self.line.append([])
        if not stretch.hooks or (self._has_bucket and not plan.streams and plan.accumulated):
            self._note_in(copy, more, stretch.peak)
        elif not self._has_bucket or (plan.streams and (plan.offloads or plan.accumulated or not stream.is_regular)):
            self._one_by_one(stretch, copy)
        elif plan.streams:
            self._stream(stream, copy, more)
        else:
            at, before = stretch.kept
            before_stretch = self._gradient_bytes
            self._gradient_bytes += before
            self._note_in(copy, more, at)
            self._gradient_bytes = before_stretch + stretch.gradients

    def _stream(self, stream: Stream, copy: int, more: int) -> None:
        """Add as many gradients to the bucket as fit, and reduce the bucket if a gradient has no room.

        `more` is by how many bytes the copy exceeds the first one.
        """
        plan, stretch, done = self._plan, stream.stretch, 0
        moved = stream.moved_by(copy)
        while done < len(stretch.hooks):
            end = stream.fitting(done, plan.bucket_size - self._filled)
            if end <= done:
                most, _, gradient, ready = stretch.hooks[done]
                self._note_in(copy, more, most)
                self._add(moved(stream.places[done]), gradient, stretch.moved(ready, copy))
                done += 1
                continue
            most, places = stream.peak_between(done, end)
            self._note_in(copy, more, most)
            self._filled += stream.elements[end] - stream.elements[done]
            self._bucket += map(moved, places)
            done = end
        if stretch.after is not None:
            self._note_in(copy, more, stretch.after)

    def _one_by_one(self, stretch: Stretch, copy: int) -> None:
        plan, more = self._plan, stretch.excess_bytes(copy)
        for most, key, gradient, ready in stretch.hooks:
            self._note_in(copy, more, most)
            at = stretch.moved(ready, copy)
            if not self._has_bucket:
                self._has_bucket = True
                self._note(at)
            if plan.streams:
                place = plan.partitions.place(stretch.key_in(key, copy))
                self._add(place, plan.bytes_of(place) if plan.accumulated else gradient, at)
            elif not plan.accumulated:
                self._gradient_bytes += gradient
        if stretch.after is not None:
            self._note_in(copy, more, stretch.after)

    def most_before(self, interval: int) -> Point:
        """Return the peak point up to an interval, the first one if several are equal."""
        sizes, up_to, _ = self._sizes
        return self.intervals[sizes.index(up_to[interval])]

    def most_from(self, interval: int) -> Point | None:
        """Return the peak point from an interval on, the first one if several are equal. None after the last one."""
        sizes, _, after = self._sizes
        if interval == len(sizes):
            return None
        return self.intervals[sizes.index(after[-1 - interval], interval)]

    @cached_property
    def _sizes(self) -> tuple[list[int], list[int], list[int]]:
        """By interval, the bytes of its point, the most up to it, and, from the last one back, the most from it on."""
        sizes = [*map(_SIZE, self.intervals)]
        return sizes, [*accumulate(sizes, max)], [*accumulate(reversed(sizes), max)]

    @property
    def kept_large(self) -> list[Large]:
        """The large gradients that ranks other than their owners keep to the end."""
        return self.large if self._plan.keeps_large else []

    @property
    def large_bytes_at_end(self) -> int:
        """The bytes of large gradients that are alive after the last reduction on a rank that owns none of them."""
        return self._large

    def earlier(self, passed: BackwardPass) -> Reduction:
        """Run a micro-batch before the last one, which reduces nothing. There is one interval."""
        self._pass(passed)
        self._close_interval()
        return self

    def _add(self, place: Place, gradient: int, at: At) -> None:
        """Add a gradient to the bucket. The bucket is reduced first if it has no room."""
        plan = self._plan
        if self._filled + place.elements > plan.bucket_size:
            self._reduce(at)
        if plan.offloads and place.elements > plan.bucket_size:
            self._note(at, copied=gradient)  # a large gradient is cloned first
        if plan.accumulated or not plan.streams:
            self._gradient_bytes -= gradient
        if place.elements > plan.bucket_size:
            self._waiting = gradient
            self._large += gradient
        self._bucket.append(place)
        self._filled += place.elements
        if plan.accumulated or not plan.streams:
            self._note(at)

    def _add_all(self, layer: int | None, gradients: Gradients, at: At) -> None:
        """Add gradients that stayed alive to the bucket, as many as fit at once."""
        plan, done, count = self._plan, 0, len(gradients.names)
        place = self._place_of(layer, gradients)
        while done < count:
            end = gradients.fitting(done, plan.bucket_size - self._filled)
            if plan.offloads or end <= done:
                self._add(place(done, done + 1), gradients.bytes[done + 1] - gradients.bytes[done], at)
                done += 1
                continue
            first, sizes = gradients.bytes[done], gradients.bytes
            # The bytes only decrease from one gradient to the next.
            self._gradient_bytes -= sizes[done + 1] - first
            self._note(at)
            self._gradient_bytes -= sizes[end] - sizes[done + 1]
            self._filled += gradients.elements[end] - gradients.elements[done]
            if gradients.are_joined:
                self._bucket.append(place(done, end))
            else:
                self._bucket += [place(number, number + 1) for number in range(done, end)]
            done = end

    def _place_of(self, layer: int | None, gradients: Gradients) -> Callable[[int, int], Place]:
        """Return a function that returns the place of consecutive gradients of a layer."""
        partitions, names, before = self._plan.partitions, gradients.names, gradients.elements
        if not gradients.are_joined or not names:
            return lambda first, _: partitions.place(Key(names[first], layer))
        group, offset = partitions.start(Key(names[0], layer))
        return lambda first, end: group.at(offset + before[first], before[end] - before[first])

    def _reduce(self, at: At) -> None:
        """Reduce the bucket, and copy each part to the partition of its rank."""
        intervals, reduced, ranks = self.intervals, self.reduced, {*map(_RANKS, self._bucket)}
        intervals.append(self._note(at, copied=self._copied(ranks)))
        for rank in chain.from_iterable(ranks):
            if rank not in reduced:
                reduced[rank] = len(intervals) - 1
        if self._plan.offloads:
            self._copy_to_host()
        self._open = None
        intervals.append(self._note(at))
        self._open = None
        if self._waiting:
            self.large.append(Large(len(intervals) - 1, self._waiting, self._bucket[0].ranks))
            if not self._plan.keeps_large:
                self._large -= self._waiting
        self._bucket, self._filled, self._waiting = [], 0, 0

    def _copy_to_host(self) -> None:
        for place in self._bucket:
            for rank, elements in self._plan.partitions.slices(place):
                self.copies.setdefault(rank, []).append(Copy(len(self.intervals), elements, len(self.line) - 1))

    def _copied(self, ranks: set[range]) -> int:
        """Return the bytes of the largest flat copy.

        `ranks` are those of each place. Parts for different ranks are copied together. A single part is a view.
        """
        plan, elements = self._plan, self._filled
        if not plan.copies or not self._bucket:
            return 0
        if elements <= plan.bucket_size:
            is_view = len(ranks) == 1 and len(self._bucket[0].ranks) <= 1
            return 0 if is_view else allocated(elements, ITEMSIZE[plan.dtype])
        most = parts = elements = 0
        for size in self._elements_by_run():
            parts, elements = parts + 1, elements + size
            if elements > plan.bucket_size:
                most, parts, elements = max(most, elements if parts > 1 else 0), 0, 0
        most = max(most, elements if parts > 1 else 0)
        return allocated(most, ITEMSIZE[plan.dtype])

    def _elements_by_run(self) -> Iterator[int]:
        """Yield the elements of each run of gradients for one rank."""
        slices = (part for place in self._bucket for part in self._plan.partitions.slices(place))
        for _, run in groupby(slices, lambda part: part[0]):
            yield sum(size for _, size in run)

    def _note_in(self, copy: int, more: int, at: At) -> None:
        """Record a moment of the first copy in another copy, which has some more bytes."""
        own = at.bytes + more
        size = own + self._bucket_bytes * self._has_bucket + self._large + self._gradient_bytes
        if self._keeps_line:
            self.line[-1].append((len(self.intervals), size))
        if self._open is None or size > self._open.bytes:
            own_at = tuple.__new__(At, (own, at.event, copy))  # faster than calls of the classes
            self._open = tuple.__new__(Point, (size, own_at, self._has_bucket, self._large, self._gradient_bytes, 0))

    def _note(self, at: At, *, copied: int = 0) -> Point:
        """Record a moment, and return the peak point of the interval so far."""
        size = at.bytes + self._bucket_bytes * self._has_bucket + self._large + self._gradient_bytes + copied
        if self._keeps_line:
            self.line[-1].append((len(self.intervals), size))
        if self._open is None or size > self._open.bytes:
            self._open = tuple.__new__(Point, (size, at, self._has_bucket, self._large, self._gradient_bytes, copied))
        return self._open

    def _close_interval(self) -> None:
        if self._open is not None:
            self.intervals.append(self._open)
        self._open = None
