"""The shapes and bytes of rows with symbolic dimensions, as indices of the values that a trace computes."""

from __future__ import annotations

from math import prod
from operator import mul
from typing import TYPE_CHECKING

from calculator.architecture.dimension import elements
from calculator.common.dtype import ALLOCATION_ROUNDING, ITEMSIZE, allocated
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

    __slots__ = ("_by_dims", "_by_identity", "_by_indices", "_kept", "_sizes", "shape_env", "shapes")

    def __init__(self, shape_env: ShapeEnv) -> None:
        super().__init__()
        self.shape_env = shape_env
        #: The distinct shapes, by number.
        self.shapes: list[Indices] = []
        self._by_indices: dict[Indices, int] = {}
        #: The numbers of shapes by the identity of the shape, and by the identities of its dimensions.
        self._by_identity: dict[int, int] = {}
        self._by_dims: dict[Indices, int] = {}
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
        made = {kind: (kind[0], shapes[kind[1]], kind[2], kind[3], size(kind[1], kind[2])) for kind in {*kinds}}
        return [made[kind] for kind in kinds]

    def kinds(self, rows: Sequence[Allocation]) -> list[Kind]:
        """Return the key of the kind of each row."""
        numbers = self._by_identity
        shapes = [row[1] for row in rows]
        for identity, shape in dict(zip(map(id, shapes), shapes, strict=True)).items():
            if identity not in numbers:
                self._number(shape)
        return [(name, numbers[id(shape)], dtype, component) for name, shape, dtype, component, _ in rows]

    def sizes_of(self, kinds: Sequence[Kind]) -> list[int]:
        """Return the index of the size in bytes of each kind."""
        layouts = [kind[1:3] for kind in kinds]
        sizes = {layout: self.size(*layout) for layout in {*layouts}}
        return [*map(sizes.__getitem__, layouts)]

    def size(self, number: int, dtype: DType) -> int:
        """Return the index of the bytes of a tensor, given the number of its shape and its dtype."""
        size = self._sizes.get((number, dtype))
        if size is None:
            size = self._sizes[number, dtype] = self._size(self.shapes[number], ITEMSIZE[dtype])
        return size

    def _number(self, shape: Shape) -> int:
        """Return the number of a shape."""
        number = self._by_identity.get(id(shape))
        if number is None:
            dims = tuple(map(id, shape))
            number = self._by_dims.get(dims)
            if number is None:
                indices = (*map(self.shape_env.index, shape),)
                number = self._by_dims[dims] = self._by_indices.setdefault(indices, len(self.shapes))
                if number == len(self.shapes):
                    self.shapes.append(indices)
            self._by_identity[id(shape)] = number
            self._kept.append(shape)
        return number

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


class EvaluatedSizes:
    """The bytes of rows for any values of a `ShapeEnv`, computed without an expression for each size."""

    __slots__ = ("_constants", "_symbolic", "number_of_row")

    def __init__(self, rows: Sequence[Allocation]) -> None:
        #: The distinct sizes without a symbolic dimension, after a size of no bytes.
        self._constants = [0]
        #: The product of each other size's constants, and the indices of its symbolic dimensions. Their numbers follow
        #: those of the constants.
        self._symbolic: list[tuple[int, list[int]]] = []
        _, shapes, dtypes, _, _ = zip(*rows, strict=True)
        layouts = [*zip(map(id, shapes), dtypes, strict=True)]
        distinct = dict(zip(layouts, zip(shapes, dtypes, strict=True), strict=True))
        dims = {layout: (*map(id, shape), dtype) for layout, (shape, dtype) in distinct.items()}
        by_dims = dict(zip(dims.values(), distinct.values(), strict=True))
        symbolic = {key for key, (shape, _) in by_dims.items() if SymInt in map(type, shape)}
        numbers = {}
        for key in sorted(by_dims, key=symbolic.__contains__):
            numbers[key] = len(self._constants) + len(self._symbolic)
            shape, dtype = by_dims[key]
            if key in symbolic:
                constant = elements(tuple([dim for dim in shape if dim.__class__ is not SymInt])) * ITEMSIZE[dtype]
                self._symbolic.append((constant, [dim.index for dim in shape if dim.__class__ is SymInt]))
            else:
                self._constants.append(allocated(elements(shape), ITEMSIZE[dtype]))
        of_layout = dict(zip(dims, map(numbers.__getitem__, dims.values()), strict=True))
        #: The number of the size of each row.
        self.number_of_row = [*map(of_layout.__getitem__, layouts)]

    @property
    def indices(self) -> set[int]:
        """The indices of the values that the sizes are computed from."""
        return {index for _, indices in self._symbolic for index in indices}

    def __call__(self, values: Sequence[int]) -> list[int]:
        """Return the bytes by number."""
        value, unit = values.__getitem__, ALLOCATION_ROUNDING
        # `rounded`, without a call for each size.
        sizes = [-(-constant * prod(map(value, indices)) // unit) * unit for constant, indices in self._symbolic]
        return [*self._constants, *sizes]
