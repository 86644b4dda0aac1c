"""How a run under stages 1 and 2 reduces its gradients, and what is alive during the reduction.

Source: deepspeed/runtime/zero/stage_1_and_2.py.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ITEMSIZE, allocated
from calculator.sharding.zero.partitions import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from calculator.common.dtype import DType
    from calculator.sharding.zero.backward import At, Stretch
    from calculator.sharding.zero.partitions import Partitions


class Point(NamedTuple):
    """A moment of the backward pass with what the reduction has allocated, the same on every rank.

    Attributes:
        bytes: All bytes alive, without a rank's own gradients.
        at: The moment, without what the reduction has allocated.
        has_bucket: Whether the bucket is allocated.
        large: The bytes of gradients that are larger than the bucket.
        separate: The bytes of the other gradients that are tensors of their own.
        copied: The bytes of the flat copy that is reduced.
    """

    bytes: int
    at: At
    has_bucket: bool
    large: int
    separate: int
    copied: int

    def without(self, large: int) -> Point:
        """Return the point on a rank that has freed some of the large gradients."""
        return self._replace(bytes=self.bytes - large, large=self.large - large)


class Gradients:
    """The gradients of parameters that are consecutive in the optimizer's order. Layers of one kind share them.

    `are_joined`: whether the parameters are consecutive in the flat tensor too.
    """

    __slots__ = ("are_joined", "bytes", "elements", "names")

    def __init__(self, names: Sequence[str], sizes: Sequence[int], dtype: DType, *, are_joined: bool) -> None:
        self.names, self.are_joined = names, are_joined
        #: The elements and the bytes before each gradient, and the totals.
        self.elements = [0, *accumulate(sizes)]
        self.bytes = [0, *accumulate(allocated(size, ITEMSIZE[dtype]) for size in sizes)]

    def fitting(self, first: int, room: int) -> int:
        """Return the index of the first gradient that has no room, from a given one on."""
        return bisect_right(self.elements, self.elements[first] + room) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The reduction of gradients in a run.

    Attributes:
        partitions: The place of each parameter.
        in_order: The parameters with a gradient in the optimizer's order, layer by layer.
        bucket_size: The number of elements of a bucket.
        buffers: The number of buckets: two if reductions overlap with the pass.
        dtype: The dtype of gradients.
        streams: Whether gradients are reduced during the backward pass, or after it.
        copies: Whether gradients for different ranks are copied to one tensor that is reduced (reduce_scatter).
        offloads: Whether a rank's gradients are copied to the host.
        keeps_large: Whether a gradient that is larger than the bucket stays alive on ranks that do not own a part.
        accumulated: The bytes of the gradients that earlier micro-batches of the step left as tensors of their own.
    """

    partitions: Partitions
    in_order: Sequence[tuple[int | None, Gradients]]
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
        """Return the bytes of a parameter's gradient."""
        return allocated(place.elements, ITEMSIZE[self.dtype])


class Stream:
    """The gradients of a stretch that are reduced while it runs.

    Attributes:
        is_regular: Whether the gradients of each copy are consecutive in the flat tensor like those of the first copy.
        places: The places of the first copy's gradients.
        elements: The elements before each gradient, and the total.
    """

    __slots__ = ("_between", "_first_of", "_partitions", "elements", "is_regular", "places", "stretch")

    def __init__(self, stretch: Stretch, partitions: Partitions) -> None:
        self.stretch, self._partitions = stretch, partitions
        keys = [hook.key for hook in stretch.hooks]
        self.is_regular = partitions.is_regular and len({key.layer for key in keys}) <= 1
        self.places = [*map(partitions.place, keys)]
        self.elements = [0, *accumulate(place.elements for place in self.places)]
        #: By group, the first gradient of it, and its offset.
        self._first_of = {
            place.group: (key, place.offset) for place, key in zip(reversed(self.places), reversed(keys), strict=True)
        }
        self._between: dict[tuple[int, int], tuple[At, list[Place]]] = {}

    def fitting(self, first: int, room: int) -> int:
        """Return the index of the first gradient that has no room, from a given one on."""
        return bisect_right(self.elements, self.elements[first] + room) - 1

    def peak_between(self, first: int, end: int) -> tuple[At, list[Place]]:
        """Return the peak moment during some gradients of the first copy, and the places of these gradients."""
        if (first, end) not in self._between:
            most = max((hook.most for hook in self.stretch.hooks[first:end]), key=attrgetter("bytes"))
            self._between[first, end] = most, self._partitions.joined(self.places[first:end])
        return self._between[first, end]

    def moved_by(self, copy: int) -> Callable[[Place], Place]:
        """Return a function that returns the place in another copy for a place in the first copy."""
        moves = {}
        for number, (key, offset) in self._first_of.items():
            group, start = self._partitions.start(self.stretch.key_in(key, copy))
            moves[number] = start - offset, group.partition

        def moved(place: Place) -> Place:
            group, offset, elements, _ = place
            shift, partition = moves[group]
            offset += shift
            # A group without elements is in no stretch.
            ranks = range(offset // partition, -(-(offset + elements) // partition))
            return tuple.__new__(Place, (group, offset, elements, ranks))  # faster than a call of the class

        return moved
