"""The kinds of storages on a tape. Storages of one kind have equal name, shape, dtype, component and size.

Kinds and sizes are numbered. So a result that only depends on which of them are equal is computed once for all runs
with the same events.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import count
from operator import invert, itemgetter, mul
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.skipped_layer import SkippedLayer
    from calculator.engine.symbolic_sizes import Digits
    from calculator.engine.tape import Allocation, Tape

    #: The name, shape, dtype and component of a kind, and its size if it is known.
    Key = tuple[str, object, DType, ComponentName] | tuple[str, object, DType, ComponentName, int]

    #: Rows of outputs of layers that are not interpreted, each with the row of the next layer's output.
    Outputs = Sequence[tuple[int, int]]

#: The first number that has as many bytes, for the number of each size. A range if no two sizes are equal.
EqualSizes = tuple[int, ...] | range

#: The key of a kind.
Kind = TypeVar("Kind", bound="Hashable")


class Kinds:
    """The kind of each row of a tape. The numbers of kinds have the order of allocation.

    Sizes with different numbers can be equal in a run.
    """

    __slots__ = ("formulas", "keys", "kind_of_row", "size_events", "size_of")

    def __init__(
        self,
        keys: Sequence[Key],
        size_of: Sequence[int],
        kind_of_row: Sequence[int],
        events: Sequence[int],
        formulas: Sequence[tuple[int, DType]] | None = None,
        sizes: Sequence[int] | None = None,
    ) -> None:
        """Take the kinds of a tape with some events. `sizes` has the number of each row's size, if it is known."""
        #: The name, shape, dtype and component of each kind. Numbers may replace the shapes.
        self.keys = keys
        #: For each kind, the number of its symbolic shape, and its dtype. Empty if a kind has several symbolic shapes.
        #: None if no shape is symbolic.
        self.formulas = formulas
        #: The number of each kind's size.
        self.size_of = size_of
        self.kind_of_row = kind_of_row
        sizes = sizes or picked(size_of, kind_of_row)
        #: The events of the tape, with the number of the row's size in place of the row.
        self.size_events = picked((*sizes, *map(invert, reversed(sizes))), events)

    def component(self, kind: int) -> ComponentName:
        """Return the component of a kind."""
        return self.keys[kind][3]

    def row_name(self, row: int) -> str:
        """Return the name of a row."""
        return self.keys[self.kind_of_row[row]][0]

    def row_size(self, row: int) -> int:
        """Return the number of a row's size."""
        return self.size_of[self.kind_of_row[row]]

    def by_size(self, counts: Mapping[int, int]) -> dict[int, int]:
        """Return the number of storages of each size from the number of storages of each kind."""
        size_of = self.size_of
        sizes: dict[int, int] = {}
        for kind, number in counts.items():
            size = size_of[kind]
            sizes[size] = sizes.get(size, 0) + number
        return sizes


class Storages:
    """The storages of one run by kind, with their sizes in bytes.

    `make` returns a kind's name, shape, dtype, component and size when they are first read. `traced` returns the same
    with a symbolic shape. `digits` has the sizes of this run. By default, no shape is symbolic.
    """

    __slots__ = ("_equal_sizes", "allocation_of_kind", "digits", "kinds", "make", "sizes", "traced")

    def __init__(
        self,
        kinds: Kinds,
        sizes: Sequence[int],
        make: Callable[[int], Allocation],
        traced: Callable[[int], Allocation] | None = None,
        digits: Digits | None = None,
    ) -> None:
        self.kinds = kinds
        self.traced = traced or make
        self.digits = digits
        #: The bytes of each size, by number.
        self.sizes = sizes
        self.make = make
        self.allocation_of_kind: dict[int, Allocation] = {}
        self._equal_sizes: EqualSizes | None = None

    @property
    def allocations(self) -> list[Allocation]:
        """Every kind, by number."""
        return [*map(self.allocation, range(len(self.kinds.keys)))]

    def allocation(self, kind: int) -> Allocation:
        """Return the kind with a number."""
        allocation = self.allocation_of_kind.get(kind)
        if allocation is None:
            allocation = self.allocation_of_kind[kind] = self.make(kind)
        return allocation

    @property
    def equal_sizes(self) -> EqualSizes:
        """The first number that has as many bytes, for the number of each size."""
        if self._equal_sizes is None:
            first: dict[int, int] = {}
            first_of_size = tuple(map(first.setdefault, self.sizes, range(len(self.sizes))))
            self._equal_sizes = range(len(first_of_size)) if len(first) == len(first_of_size) else first_of_size
        return self._equal_sizes

    def bytes_of(self, counts: Mapping[int, int]) -> int:
        """Return the bytes of a number of storages of each kind."""
        sizes, size_of = self.sizes, self.kinds.size_of
        return sum([sizes[size_of[kind]] * count for kind, count in counts.items()])

    def bytes_of_sizes(self, counts: Mapping[int, int]) -> int:
        """Return the bytes of a number of storages of each size."""
        return sum(map(mul, map(self.sizes.__getitem__, counts), counts.values()))

    @property
    def rows(self) -> list[Allocation]:
        """Every row of the tape."""
        return [*map(self.allocations.__getitem__, self.kinds.kind_of_row)]

    @property
    def sizes_of_rows(self) -> list[int]:
        """The bytes of every row."""
        size_of, sizes = self.kinds.size_of, self.sizes
        return [sizes[size_of[kind]] for kind in self.kinds.kind_of_row]


def storages_of(tape: Tape, first: SkippedLayer | None = None, outputs: Outputs = ()) -> Storages:
    """Return the storages of a tape. The number of a kind is that of its first row."""
    rows = tape.rows
    bytes_of, size_of = numbered(map(itemgetter(4), rows))
    kinds = Kinds(rows, size_of, _equal_rows(rows, first, outputs), tape.events, sizes=size_of)
    return Storages(kinds, bytes_of, rows.__getitem__)


def kinds_of(rows: list[Kind], first: SkippedLayer | None, outputs: Outputs = ()) -> tuple[list[Kind], Sequence[int]]:
    """Return the distinct kinds of rows, and the number of each row's kind among them."""
    kind_of_row = _equal_rows(rows, first, outputs)
    distinct = sorted({*kind_of_row})
    numbers = dict(zip(distinct, count(), strict=False))
    return [rows[row] for row in distinct], tuple(map(numbers.__getitem__, kind_of_row))


def _equal_rows(rows: list[Kind], first: SkippedLayer | None, outputs: Outputs) -> list[int]:
    """Return the first row that equals each row.

    The output of a skipped first layer equals the next layer's output. It does not count as the first row of its kind.
    The same holds for `outputs`.
    """
    counted: list[Kind | None] = [*rows]
    if first is not None:
        counted[first.output_row] = None
    for output, _ in outputs:
        counted[output] = None
    numbers: dict[Kind | None, int] = {}
    number_of_row = [*map(numbers.setdefault, counted, range(len(rows)))]
    if first is not None:
        number_of_row[first.output_row] = numbers.get(rows[first.output_row], first.output_row)
    for output, like in outputs:
        number_of_row[output] = number_of_row[like]
    return number_of_row


def first_rows(kind_of: Sequence[int], first: SkippedLayer | None) -> list[int]:
    """Return the first row of each kind, without the output of a skipped first layer."""
    if first is None:
        return firsts(kind_of)
    own = [*range(len(kind_of))]
    own.append(own.pop(first.output_row))
    return [own[at] for at in firsts([kind_of[row] for row in own])]


def numbered(values: Iterable[Kind]) -> tuple[list[Kind], tuple[int, ...]]:
    """Return the distinct values in the order of first occurrence, and the index of each value among them."""
    numbers: defaultdict[Kind, int] = defaultdict(count().__next__)
    numbers_of_values = tuple(map(numbers.__getitem__, values))
    return [*numbers], numbers_of_values


def equal(values: Iterable[Hashable]) -> tuple[int, ...]:
    """Return a number for each value. Equal values have equal numbers."""
    return numbered(values)[1]


def picked(values: Sequence[int], indices: Sequence[int]) -> Sequence[int]:
    """Return the values at some indices. `itemgetter` takes half the time of a comprehension."""
    if len(indices) < 2:
        return [values[index] for index in indices]
    values_at: tuple[int, ...] = itemgetter(*indices)(values)
    return values_at


def firsts(numbers: Iterable[int]) -> list[int]:
    """Return the index of the first occurrence of each number. The numbers are consecutive from 0 on."""
    listed = [*numbers]
    first_index = dict(zip(reversed(listed), range(len(listed) - 1, -1, -1), strict=True))
    return [*map(first_index.__getitem__, range(len(first_index)))]
