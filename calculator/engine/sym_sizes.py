"""The shapes and bytes of rows with symbolic dimensions, as indices of the values that a trace computes."""

from __future__ import annotations

from itertools import chain
from math import prod
from operator import mul
from typing import TYPE_CHECKING

from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE, allocated
from calculator.engine.kinds import numbered
from calculator.engine.symbolic_sizes import SymInt
from calculator.engine.tape import Sizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from calculator.architecture.dimension import Shape
    from calculator.common.dtype import DType
    from calculator.common.names import ComponentName
    from calculator.engine.symbolic_sizes import ShapeEnv
    from calculator.engine.tape import Allocation

#: The indices of a shape's dimensions.
Indices = tuple[int, ...]

#: The key of a kind of rows: name, number of the shape, dtype and component. They determine the size.
Kind = tuple[str, int, "DType", "ComponentName"]


class SymSizes(Sizes):
    """The shapes and bytes of a tape's rows, as indices of values of a `ShapeEnv`.

    They are computed after the rows are recorded, because the step does not read them and most rows share a shape
    object. Shapes are compared by the indices of their dimensions. Hashing the dimensions would guard on their values.
    """

    __slots__ = ("_by_identity", "_by_indices", "_kept", "_sizes", "shape_env", "shapes")

    def __init__(self, shape_env: ShapeEnv) -> None:
        super().__init__()
        self.shape_env = shape_env
        #: The distinct shapes, by number.
        self.shapes: list[Indices] = []
        self._by_indices: dict[Indices, int] = {}
        #: The numbers of shapes by the identity of the shape.
        self._by_identity: dict[int, int] = {}
        #: The shapes whose identities are stored. They are kept alive so that no other object gets the same identity.
        self._kept: list[Shape] = []
        #: The index of the bytes, by the number of the shape and the dtype.
        self._sizes: dict[tuple[int, DType], int] = {}

    def __getitem__(self, key: tuple[Shape, DType]) -> int:
        return 0

    def indexed(self, rows: Sequence[Allocation]) -> list[Allocation]:
        """Return the rows with the indices of their dimensions and of their bytes.

        Rows of one kind share one object.
        """
        kinds, shapes, size = self.kinds(rows), self.shapes, self.size
        rows_by_kind = {kind: (kind[0], shapes[kind[1]], kind[2], kind[3], size(kind[1], kind[2])) for kind in {*kinds}}
        return [rows_by_kind[kind] for kind in kinds]

    def kinds(self, rows: Sequence[Allocation]) -> list[Kind]:
        """Return the key of the kind of each row."""
        if not rows:
            return []
        numbers, (names, shapes, dtypes, components, _) = self._by_identity, zip(*rows, strict=True)
        identities = [*map(id, shapes)]
        shape_of = dict(zip(identities, shapes, strict=True))
        self._add([shape for identity, shape in shape_of.items() if identity not in numbers])
        return [*zip(names, map(numbers.__getitem__, identities), dtypes, components, strict=True)]

    def sizes_of(self, kinds: Sequence[Kind]) -> list[int]:
        """Return the index of the size in bytes of each kind."""
        sizes, size_of = self.numbered_sizes([kind[1:3] for kind in kinds])
        return [*map(sizes.__getitem__, size_of)]

    def numbered_sizes(self, layouts: Sequence[tuple[int, DType]]) -> tuple[list[int], tuple[int, ...]]:
        """Return the indices of the distinct sizes in bytes, and the number of each layout's size among them.

        A layout is the number of a shape, and a dtype.
        """
        distinct = dict.fromkeys(layouts)
        sizes, numbers = numbered([self.size(*layout) for layout in distinct])
        size_of = dict(zip(distinct, numbers, strict=True))
        return sizes, tuple(map(size_of.__getitem__, layouts))

    def size(self, number: int, dtype: DType) -> int:
        """Return the index of the bytes of a tensor, given the number of its shape and its dtype."""
        size = self._sizes.get((number, dtype))
        if size is None:
            size = self._sizes[number, dtype] = self._size(self.shapes[number], ITEMSIZE[dtype])
        return size

    def _add(self, shapes: Sequence[Shape]) -> None:
        """Number shapes. Many of them have the same dimension."""
        dims = dict(zip(map(id, chain(*shapes)), chain(*shapes), strict=True))
        index_of = dict(zip(dims, map(self.shape_env.index, dims.values()), strict=True))
        for shape in shapes:
            indices = tuple(map(index_of.__getitem__, map(id, shape)))
            number = self._by_identity[id(shape)] = self._by_indices.setdefault(indices, len(self.shapes))
            if number == len(self.shapes):
                self.shapes.append(indices)
        self._kept += shapes

    def _size(self, indices: Indices, itemsize: int) -> int:
        """Return the index of the bytes, which are a constant or an expression of symbolic dimensions."""
        shape_env, constant, symbolic = self.shape_env, 1, []
        for index in indices:
            if index in shape_env.constants:
                constant *= shape_env.values[index]
            else:
                symbolic.append(index)
        if not symbolic:
            return shape_env.index(allocated(constant, itemsize))
        symbolic.sort()
        count = symbolic[0]
        for other in symbolic[1:]:
            count = shape_env.applied(mul, count, other)
        if constant != 1:
            count = shape_env.applied(mul, count, shape_env.index(constant))
        return shape_env.applied(allocated, count, shape_env.index(itemsize))


class EvaluatedSizes(Sizes):
    """The bytes of a tape's rows for any values of a `ShapeEnv`, computed without an expression for each size.

    The size of a row is a number. Equal products of dimensions and bytes have the same number.
    """

    __slots__ = ("_kept", "_number_of_layout", "_numbers")

    def __init__(self) -> None:
        super().__init__()
        #: The number of each size: the product of its constants, and the indices of its symbolic dimensions. Number 0
        #: has no bytes.
        self._numbers: dict[tuple[int, Indices], int] = {(0, ()): 0}
        #: The number of the size by the identity of the shape and the dtype.
        self._number_of_layout: dict[tuple[int, DType], int] = {}
        #: The shapes whose identities are stored. They are kept alive so that no other object gets the same identity.
        self._kept: list[Shape] = []

    def __getitem__(self, key: tuple[Shape, DType]) -> int:
        shape, dtype = key
        number = self._number_of_layout.get((id(shape), dtype))
        return self._number(shape, dtype) if number is None else number

    def _number(self, shape: Shape, dtype: DType) -> int:
        constant, indices = ITEMSIZE[dtype], []
        for dim in shape:
            if dim.__class__ is SymInt:
                indices.append(dim.index)
            else:
                constant *= +dim
        number = self._numbers.setdefault((constant, tuple(indices)), len(self._numbers))
        self._number_of_layout[id(shape), dtype] = number
        self._kept.append(shape)
        return number

    @property
    def indices(self) -> set[int]:
        """The indices of the values that the sizes are computed from."""
        return {index for _, indices in self._numbers for index in indices}

    def with_values(self, values: Sequence[int]) -> list[int]:
        """Return the bytes by number."""
        value, unit = values.__getitem__, ALLOCATION_ROUNDING
        # `rounded`, without a call for each size.
        return [
            -(-constant * (value(indices[0]) if len(indices) == 1 else prod(map(value, indices))) // unit) * unit
            for constant, indices in self._numbers
        ]
