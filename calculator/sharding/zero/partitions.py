"""How stages 1 and 2 partition the trained parameters.

Each parameter group is one flat tensor, and each rank owns a part.

Layers of one kind have equally many elements. So a parameter's place follows from the start of its layer.

Source: deepspeed/runtime/zero/stage_1_and_2.py, DeepSpeedZeroOptimizer.__init__ and get_partition_info.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from functools import lru_cache
from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from calculator.common.dtype import ALLOCATION_ROUNDING, allocated

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from calculator.sharding.zero.parameters import Key

#: For each rank, flat tensors are padded to a multiple of this many elements (nccl_start_alignment_factor).
ALIGNMENT = 2


class Pattern:
    """Consecutive parameters of a flat tensor. Layers of one kind share a pattern."""

    __slots__ = ("elements", "index", "sizes", "starts")

    def __init__(self, names: Sequence[str], sizes: Sequence[int]) -> None:
        self.sizes = sizes
        self.index = {name: number for number, name in enumerate(names)}
        #: The elements before each parameter, and the total.
        self.starts = [0, *accumulate(sizes)]
        self.elements = self.starts[-1]


#: A pattern, and the number of its layer.
Part = tuple["int | None", Pattern]


class Place(NamedTuple):
    """A place in a flat tensor: its offset, its elements, and the ranks that own parts of it."""

    group: int
    offset: int
    elements: int
    ranks: range


class Owned(NamedTuple):
    """The parameters of a rank's partition.

    Attributes:
        parameters: The number of parameters.
        whole: The elements of all of them, including the parts of other ranks.
        slices: The index and the elements of their parts in the partition. Layers that equal a later one are left out.
    """

    parameters: int
    whole: int
    slices: tuple[tuple[int, int], ...]

    @property
    def largest(self) -> tuple[int, int] | None:
        """The index and the elements of the gradient whose float64 copy leads to the most bytes. None without any."""
        return _largest_slice(self.slices)


@lru_cache(maxsize=256)
def _largest_slice(slices: tuple[tuple[int, int], ...]) -> tuple[int, int] | None:
    """Return the slice whose float64 copy leads to the most bytes. Many ranks own as much."""
    return max(slices, key=_float64_norm_bytes, default=None)


def _float64_norm_bytes(numbered: tuple[int, int]) -> tuple[int, int]:
    """Return the bytes alive with a gradient's float64 copy and the norms before it.

    The first of equal ones is the largest.
    """
    at, size = numbered
    return allocated(size, 8) + ALLOCATION_ROUNDING * at, -at


class FlatGroup:
    """The flat tensor of a parameter group, and the size of each rank's partition of it."""

    __slots__ = (
        "_counts",
        "_kinds",
        "_patterns_by_name",
        "_starts",
        "elements",
        "number",
        "padded",
        "partition",
        "parts",
    )

    def __init__(self, number: int, given: Sequence[Part], count: int, *, round_robin: bool) -> None:
        self.number = number
        #: The patterns of its parameters in the order of the flat tensor.
        self.parts = _round_robin(given, count) if round_robin else [part for part in given if part[1].elements]
        self._starts = [0, *accumulate([pattern.elements for _, pattern in self.parts])]
        self._counts = [0, *accumulate([len(pattern.sizes) for _, pattern in self.parts])]
        #: The elements of all parameters, and the elements with padding.
        self.elements = self._starts[-1]
        self.padded = -(-self.elements // (ALIGNMENT * count)) * ALIGNMENT * count
        #: The elements of one rank's partition.
        self.partition = self.padded // count
        #: The pattern of each part, by its id.
        self._kinds = [id(pattern) for _, pattern in self.parts]
        starts: dict[int, tuple[Pattern, dict[int | None, int]]] = {}
        for (layer, pattern), start in zip(self.parts, self._starts, strict=False):
            starts.setdefault(id(pattern), (pattern, {}))[1][layer] = start
        self._patterns_by_name: dict[str, list[tuple[Pattern, dict[int | None, int]]]] = {}
        for pattern, layer_starts in starts.values():
            for name in pattern.index:
                self._patterns_by_name.setdefault(name, []).append((pattern, layer_starts))

    @property
    def names(self) -> frozenset[str]:
        """The names of its parameters, with `*` for the numbers of layers."""
        return frozenset(self._patterns_by_name)

    def place(self, key: Key) -> Place:
        """Return the place of a parameter."""
        return self.at(*self.offset(key))

    def offset(self, key: Key) -> tuple[int, int]:
        """Return the elements before a parameter, and its own elements."""
        name, layer = key
        for pattern, layer_starts in self._patterns_by_name[name]:
            if layer in layer_starts:
                number = pattern.index[name]
                return layer_starts[layer] + pattern.starts[number], pattern.sizes[number]
        raise KeyError(key)

    def at(self, offset: int, elements: int) -> Place:
        """Return the place of consecutive elements."""
        partition = self.partition
        ranks = range(offset // partition, -(-(offset + elements) // partition)) if partition else range(0)
        return tuple.__new__(Place, (self.number, offset, elements, ranks))  # faster than a call of the class

    def padding(self, rank: int) -> int:
        """Return the elements of a rank's partition that belong to no parameter."""
        return min(self.partition, max(0, (rank + 1) * self.partition - self.elements))

    def owned(self, rank: int) -> Owned:
        """Return the parameters of a rank's partition."""
        start, end = rank * self.partition, min((rank + 1) * self.partition, self.elements)
        if start >= end:
            return Owned(0, 0, ())
        first, last = bisect_right(self._starts, start) - 1, bisect_left(self._starts, end) - 1
        from_start = self._starts[first]
        starts = self.parts[first][1].starts
        begin = bisect_right(starts, start - from_start) - 1
        before = self._counts[first] + begin
        from_last = self._starts[last]
        last_starts = self.parts[last][1].starts
        stop = bisect_left(last_starts, end - from_last)
        slices: list[tuple[int, int]] = []
        for at in self._different(first, last):
            pattern, offset = self.parts[at][1], self._starts[at]
            low, high = begin if at == first else 0, stop if at == last else len(pattern.sizes)
            sizes = [*pattern.sizes[low:high]]
            if at == first:
                sizes[0] -= start - offset - pattern.starts[low]
            if at == last:
                sizes[-1] -= offset + pattern.starts[high] - end
            slices += enumerate(sizes, self._counts[at] + low - before)
        return Owned(
            self._counts[last] + stop - before,
            from_last + last_starts[stop] - from_start - starts[begin],
            tuple(slices),
        )

    def _different(self, first: int, last: int) -> list[int]:
        """Return the first and the last of consecutive parts, and the last of each pattern between them, in order."""
        last_of_each = dict(zip(self._kinds[first + 1 : last], range(first + 1, last), strict=False))
        return [*dict.fromkeys((first, *sorted(last_of_each.values()), last))]


def _round_robin(given: Sequence[Part], count: int) -> list[Part]:
    """Return the parameters dealt to the ranks in turn, those of the first rank first (_round_robin_reorder)."""
    alone = {
        (id(pattern), name): Pattern((name,), (pattern.sizes[number],))
        for _, pattern in given
        for name, number in pattern.index.items()
    }
    ones: list[Part] = [(layer, alone[id(pattern), name]) for layer, pattern in given for name in pattern.index]
    return [one for rank in range(count) for one in ones[rank::count] if one[1].elements]


class Partitions:
    """All flat groups of a run, and the place of each parameter in them."""

    __slots__ = ("_group_of", "count", "groups", "is_regular")

    def __init__(self, groups: Iterable[Sequence[Part]], count: int, *, round_robin: bool = False) -> None:
        self.count = count
        self.groups = [FlatGroup(number, group, count, round_robin=round_robin) for number, group in enumerate(groups)]
        self._group_of = {name: group for group in self.groups for name in group.names}
        #: Whether parameters that are consecutive in the model are consecutive in a flat tensor too.
        self.is_regular = not round_robin

    def place(self, key: Key) -> Place:
        """Return the place of a parameter."""
        return self._group_of[key.name].place(key)

    def start(self, key: Key) -> tuple[FlatGroup, int]:
        """Return the group of a parameter, and the elements before it."""
        group = self._group_of[key.name]
        return group, group.offset(key)[0]

    def joined(self, places: Iterable[Place]) -> list[Place]:
        """Return as few places with the same elements."""
        joined: list[Place] = []
        end: tuple[int, int] | None = None
        for place in sorted(places, key=attrgetter("group", "offset")):
            if end == (place.group, place.offset):
                before = joined.pop()
                joined.append(self.groups[place.group].at(before.offset, before.elements + place.elements))
            else:
                joined.append(place)
            end = place.group, place.offset + place.elements
        return joined

    def slices(self, place: Place) -> Iterator[tuple[int, int]]:
        """Yield the rank and the elements of each part of a place."""
        partition = self.groups[place.group].partition
        end = place.offset + place.elements
        for rank in place.ranks:
            yield rank, min(end, (rank + 1) * partition) - max(place.offset, rank * partition)
