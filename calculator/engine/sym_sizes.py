"""Rows with symbolic dimensions: their shapes and bytes by the indices of the values that a trace computes."""

from __future__ import annotations

from operator import mul
from typing import TYPE_CHECKING

from calculator.common.dtype import ITEMSIZE, allocated
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

#: What tells the kinds of rows apart: name, number of the shape, dtype and component. The size follows from these.
Kind = tuple[str, int, "DType", "ComponentName"]


class SymSizes(Sizes):
    """The shapes and bytes of a tape's rows, as indices of values of an environment.

    They are found after the rows are made: the step does not read them, and most rows have the very shape of another
    one. Shapes are compared by the indices of their dimensions: hashing the dimensions would guard on their values.
    """

    __slots__ = ("_by_dims", "_by_identity", "_by_indices", "_kept", "_sizes", "shape_env", "shapes")

    def __init__(self, shape_env: ShapeEnv) -> None:
        super().__init__()
        self.shape_env = shape_env
        #: The distinct shapes, by number.
        self.shapes: list[Indices] = []
        self._by_indices: dict[Indices, int] = {}
        #: The numbers of shapes by their identity, and by the identities of their dimensions.
        self._by_identity: dict[int, int] = {}
        self._by_dims: dict[Indices, int] = {}
        #: Shapes whose identities are known, so that no others get these.
        self._kept: list[Shape] = []
        #: The index of the bytes, by the number of the shape and the dtype.
        self._sizes: dict[tuple[int, DType], int] = {}

    def __getitem__(self, key: tuple[Shape, DType]) -> int:
        return 0

    def indexed(self, rows: Sequence[Allocation]) -> list[Allocation]:
        """Rows with the indices of their dimensions and of their bytes; those of a kind are one object."""
        kinds, shapes, size = self.kinds(rows), self.shapes, self.size
        made = {kind: (kind[0], shapes[kind[1]], kind[2], kind[3], size(kind[1], kind[2])) for kind in {*kinds}}
        return [made[kind] for kind in kinds]

    def kinds(self, rows: Sequence[Allocation]) -> list[Kind]:
        """What tells the kinds of rows apart."""
        numbers = self._by_identity
        for identity, shape in {id(row[1]): row[1] for row in rows}.items():
            if identity not in numbers:
                self._number(shape)
        return [(name, numbers[id(shape)], dtype, component) for name, shape, dtype, component, _ in rows]

    def size(self, number: int, dtype: DType) -> int:
        """The index of the bytes of a tensor, whose shape has this number."""
        size = self._sizes.get((number, dtype))
        if size is None:
            size = self._sizes[number, dtype] = self._size(self.shapes[number], ITEMSIZE[dtype])
        return size

    def _number(self, shape: Shape) -> int:
        """The number of a shape."""
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
        """The index of the bytes: a constant, or an expression of the symbolic dimensions."""
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
