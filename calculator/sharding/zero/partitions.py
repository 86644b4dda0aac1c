"""How stages 1 and 2 divide the trained parameters: one flat tensor for each parameter group, and a part of it a rank.

Source: deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer.__init__ and get_partition_info.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.sharding.zero.parameters import Key, Trained

#: Flat tensors are padded to a multiple of this many elements for each rank (nccl_start_alignment_factor).
ALIGNMENT = 2


class Place(NamedTuple):
    """Where a parameter is in its group's flat tensor: its offset and elements, and the ranks that own parts of it."""

    group: int
    offset: int
    elements: int
    ranks: range


class FlatGroup:
    """The flat tensor of a parameter group, and the size of each rank's partition of it."""

    __slots__ = ("elements", "given", "offsets", "padded", "parameters", "partition")

    def __init__(self, parameters: Sequence[Trained], count: int, *, round_robin: bool) -> None:
        #: The parameters in the optimizer's order, and in the order of the flat tensor.
        self.given = parameters
        self.parameters = _round_robin(parameters, count) if round_robin else parameters
        ends = [*accumulate(each.elements for each in self.parameters)]
        #: The elements of all parameters, and the same with the padding.
        self.elements = ends[-1] if ends else 0
        self.padded = -(-self.elements // (ALIGNMENT * count)) * ALIGNMENT * count
        #: The elements of one rank's partition.
        self.partition = self.padded // count
        self.offsets = [0, *ends[:-1]]

    def places(self, group: int) -> Iterator[tuple[Key, Place]]:
        """Every parameter's place."""
        for each, offset in zip(self.parameters, self.offsets, strict=False):
            ranks = range(offset // self.partition, -(-(offset + each.elements) // self.partition))
            yield each.key, Place(group, offset, each.elements, ranks)

    def padding(self, rank: int) -> int:
        """The elements of a rank's partition that belong to no parameter."""
        return min(self.partition, max(0, (rank + 1) * self.partition - self.elements))

    def slices(self, rank: int) -> list[int]:
        """The elements of each parameter that are in a rank's partition."""
        start, end = rank * self.partition, (rank + 1) * self.partition
        first, last = max(0, bisect_right(self.offsets, start) - 1), bisect_left(self.offsets, end)
        found = zip(self.parameters[first:last], self.offsets[first:last], strict=True)
        sizes = [min(offset + each.elements, end) - max(offset, start) for each, offset in found]
        return [size for size in sizes if size > 0]


def _round_robin(parameters: Sequence[Trained], count: int) -> list[Trained]:
    """The parameters dealt to the ranks in turn, those of the first rank first (_round_robin_reorder)."""
    return [each for rank in range(count) for each in parameters[rank::count]]


class Partitions:
    """All flat groups of a run, and where each parameter is in them."""

    __slots__ = ("count", "groups", "places")

    def __init__(self, groups: Iterable[Sequence[Trained]], count: int, *, round_robin: bool = False) -> None:
        self.count = count
        self.groups = [FlatGroup(group, count, round_robin=round_robin) for group in groups]
        self.places = dict(place for number, group in enumerate(self.groups) for place in group.places(number))

    def slices(self, place: Place) -> Iterator[tuple[int, int]]:
        """The rank and the elements of each part of a parameter."""
        partition = self.groups[place.group].partition
        end = place.offset + place.elements
        for rank in place.ranks:
            yield rank, min(end, (rank + 1) * partition) - max(place.offset, rank * partition)

    def whole(self) -> list[int]:
        """By rank: the elements of all parameters that the rank owns a part of."""
        changes = [0] * (self.count + 1)
        for place in self.places.values():
            changes[place.ranks.start] += place.elements
            changes[place.ranks.stop] -= place.elements
        return [*accumulate(changes[:-1])]
