"""The reduction of gradients in stages 1 and 2: a bucket that is filled, reduced, and copied to each rank's partition.

Source: deepspeed/runtime/zero/stage_1_and_2.py, reduce_independent_p_g_buckets_and_remove_grads, average_tensor and
copy_grads_in_partition.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ITEMSIZE, allocated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.common.dtype import DType
    from calculator.sharding.zero.backward import At, BackwardPass
    from calculator.sharding.zero.partitions import Partitions, Place


class Point(NamedTuple):
    """A moment of the backward pass with what the reduction has allocated, on every rank alike.

    Attributes:
        bytes: All bytes alive, without a rank's own gradients.
        at: The moment, without what the reduction has allocated.
        has_bucket: Whether the bucket is allocated.
        large: Bytes of gradients that are larger than the bucket.
        separate: Bytes of the other gradients that are tensors of their own.
        copied: Bytes of the flat copy that is reduced.
    """

    bytes: int
    at: At
    has_bucket: bool
    large: int
    separate: int
    copied: int

    def without(self, large: int) -> Point:
        """The same point on a rank that has freed some of the large gradients."""
        return self._replace(bytes=self.bytes - large, large=self.large - large)


class Large(NamedTuple):
    """A gradient that is larger than the bucket: the last interval before its owners free it, and their ranks."""

    interval: int
    bytes: int
    ranks: range


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How a run reduces its gradients.

    Attributes:
        partitions: Where each parameter is.
        in_order: The parameters with a gradient, in the optimizer's order.
        bucket_size: The elements of a bucket.
        buffers: The buckets: two if reductions overlap with the pass.
        dtype: The dtype of gradients.
        streams: Whether gradients are reduced during the backward pass, or after it.
        copies: Whether gradients for different ranks are copied to one tensor that is reduced (reduce_scatter).
        offloads: Whether a rank's gradients are copied to the host.
        keeps_large: Whether a gradient that is larger than the bucket stays alive on ranks that do not own a part.
        accumulated: Bytes of the gradients that earlier micro-batches of the step left as tensors of their own.
    """

    partitions: Partitions
    in_order: Sequence[Place]
    bucket_size: int
    buffers: int
    dtype: DType
    streams: bool
    copies: bool
    offloads: bool
    keeps_large: bool
    accumulated: int

    @property
    def bucket_bytes(self) -> int:
        """The bytes of all buckets."""
        return self.buffers * allocated(self.bucket_size, ITEMSIZE[self.dtype])

    def bytes_of(self, place: Place) -> int:
        """The bytes of a parameter's gradient."""
        return allocated(place.elements, ITEMSIZE[self.dtype])


class Copy(NamedTuple):
    """A gradient's part in a rank's partition: its elements, the interval in which it is copied, and the layer."""

    interval: int
    elements: int
    layer: int


class Reduction:
    """The reduction in the backward pass of a step's last micro-batch.

    `intervals` has the fullest point before each reduction, up to its end, and the point right after it, when a rank
    copies the gradients of its partition. `reduced` has the number of the last interval before a rank has its buffer
    for them. `large` are the gradients that are larger than the bucket, and `copies` what each rank copies to the host.
    """

    __slots__ = (
        "_bucket",
        "_bucket_bytes",
        "_filled",
        "_has_bucket",
        "_held",
        "_large",
        "_open",
        "_plan",
        "_waiting",
        "copies",
        "intervals",
        "large",
        "line",
        "reduced",
    )

    def __init__(self, plan: Plan) -> None:
        self._plan, self._bucket_bytes = plan, plan.bucket_bytes
        self.intervals: list[Point] = []
        self.reduced: dict[int, int] = {}
        self.large: list[Large] = []
        self.copies: dict[int, list[Copy]] = {}
        self._open: Point | None = None
        #: Gradients in the bucket, and their elements.
        self._bucket: list[Place] = []
        self._filled = 0
        #: Bytes of gradients of their own, and of those that are larger than the bucket.
        self._held = plan.accumulated
        self._large = 0
        #: The large gradient in place of a bucket, if one waits for its reduction.
        self._waiting = 0
        self._has_bucket = bool(plan.accumulated)
        #: By layer of the backward pass: the interval and the bytes of every point.
        self.line: list[list[tuple[int, int]]] = [[]]

    def run(self, passed: BackwardPass) -> Reduction:
        """Reduce the gradients of a backward pass."""
        plan = self._plan
        for at in self._hooks(passed):
            self._note(at)
        if not plan.streams:
            for place in plan.in_order:
                self._add(place, plan.bytes_of(place), passed.end)
        self._reduce(passed.end)
        self._close()
        return self

    def _hooks(self, passed: BackwardPass) -> Iterator[At]:
        """Run the hooks of all gradients, and yield the moments between."""
        plan = self._plan
        yield passed.before
        for key, gradient, ready, after in passed.hooks:
            if key is None:
                self.line.append([])
                yield after
                continue
            self._has_bucket = True
            yield ready
            place = plan.partitions.places[key]
            if plan.streams:
                self._add(place, plan.bytes_of(place) if plan.accumulated else gradient, ready)
            elif not plan.accumulated:
                self._held += gradient
            yield after
        yield passed.end

    @property
    def kept(self) -> list[Large]:
        """The gradients that ranks other than their owners keep to the end."""
        return self.large if self._plan.keeps_large else []

    @property
    def left(self) -> int:
        """Bytes of the large gradients that are alive after the last reduction on a rank that owns no part of them."""
        return self._large

    def earlier(self, passed: BackwardPass) -> Reduction:
        """Run a micro-batch before the last, which reduces nothing: there is one interval."""
        for at in self._hooks(passed):
            self._note(at)
        self._close()
        return self

    def _add(self, place: Place, gradient: int, at: At) -> None:
        """Put a gradient into the bucket, after reducing what is in it if both have no room."""
        plan = self._plan
        if self._filled + place.elements > plan.bucket_size:
            self._reduce(at)
        if plan.offloads and place.elements > plan.bucket_size:
            self._note(at, copied=gradient)  # a large gradient is cloned first
        if plan.accumulated or not plan.streams:
            self._held -= gradient
        if place.elements > plan.bucket_size:
            self._waiting = gradient
            self._large += gradient
        self._bucket.append(place)
        self._filled += place.elements
        if plan.accumulated or not plan.streams:
            self._note(at)

    def _reduce(self, at: At) -> None:
        """Reduce what is in the bucket, and copy what belongs to a rank's partition."""
        self._note(at, copied=self._copied())
        self._close()
        for place in self._bucket:
            for rank, elements in self._plan.partitions.slices(place):
                self.reduced.setdefault(rank, len(self.intervals) - 1)
                if self._plan.offloads:
                    self.copies.setdefault(rank, []).append(Copy(len(self.intervals), elements, len(self.line) - 1))
        self._note(at)
        self._close()
        if self._waiting:
            self.large.append(Large(len(self.intervals) - 1, self._waiting, self._bucket[0].ranks))
        if not self._plan.keeps_large:
            self._large -= self._waiting
        self._bucket, self._filled, self._waiting = [], 0, 0

    def _copied(self) -> int:
        """The bytes of the largest flat copy: parts for different ranks are copied together, one part is a view."""
        most = parts = elements = 0
        if not self._plan.copies:
            return 0
        for size in self._parts():
            parts, elements = parts + 1, elements + size
            if elements > self._plan.bucket_size:
                most, parts, elements = max(most, elements if parts > 1 else 0), 0, 0
        most = max(most, elements if parts > 1 else 0)
        return allocated(most, ITEMSIZE[self._plan.dtype])

    def _parts(self) -> Iterator[int]:
        """The elements of each run of gradients for one rank."""
        slices = (part for place in self._bucket for part in self._plan.partitions.slices(place))
        for _, run in groupby(slices, lambda part: part[0]):
            yield sum(size for _, size in run)

    def _note(self, at: At, *, copied: int = 0) -> None:
        bucket = self._bucket_bytes if self._has_bucket else 0
        size = at.bytes + bucket + self._large + self._held + copied
        self.line[-1].append((len(self.intervals), size))
        if self._open is None or size > self._open.bytes:
            self._open = Point(size, at, self._has_bucket, self._large, self._held, copied)

    def _close(self) -> None:
        if self._open is not None:
            self.intervals.append(self._open)
        self._open = None
