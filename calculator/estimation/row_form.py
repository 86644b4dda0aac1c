"""The form of a row: everything that rows of runs with other sizes have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

from calculator.architecture.dimension import substituted, symbolic
from calculator.common.dtype import ITEMSIZE
from calculator.engine.symbolic_sizes import SymInt

if TYPE_CHECKING:
    from calculator.architecture.dimension import Shape
    from calculator.engine.symbolic_sizes import Digits


class RowForm:
    """A row without its bytes.

    It has the name, number, shape and dtype of the storages, and the source of the formula. Dimensions may be symbolic,
    with names that contain no digits of a size. Texts are built when they are first read.
    """

    __slots__ = ("_formula", "_numbers", "_sizes", "count", "dtype", "json", "name", "shape", "source")

    def __init__(self, name: str, count: int, shape: Shape | None, dtype: str, source: str) -> None:
        self.name = name
        self.count = count
        self.shape = shape
        self.dtype = dtype
        self.source = source
        #: The serialized JSON with placeholders for the parts that differ between rows, cached by the serializer.
        self.json: str | None = None
        self._formula: str | None = None
        #: The arithmetic with numbers, with placeholders for symbolic sizes. `_sizes` has the indices of these sizes.
        self._numbers: str | None = None
        self._sizes: tuple[int, ...] = ()

    @property
    def formula(self) -> str:
        """The arithmetic with names."""
        if self._formula is None:
            self._formula = self._with_factor(symbolic(self.shape or ()))
        return self._formula

    def substituted(self, digits: Digits | None) -> str:
        """Return the arithmetic with numbers. `digits` are those of symbolic sizes."""
        if self._numbers is None:
            shape = self.shape or ()
            self._sizes = tuple([dim.index for dim in shape if isinstance(dim, SymInt)])
            factors = ["%s" if isinstance(dim, SymInt) else substituted((dim,)) for dim in shape]
            self._numbers = self._with_factor(" × ".join(factors) or "1")
        if digits is None:
            return self._numbers
        return self._numbers % tuple([digits[index] for index in self._sizes])

    def shape_in(self, digits: Digits) -> Shape:
        """Return the dimensions for the sizes of a run."""
        return tuple(
            [dim.evaluate(digits.values_by_index) if isinstance(dim, SymInt) else dim for dim in self.shape or ()]
        )

    def _with_factor(self, product: str) -> str:
        size = ITEMSIZE[self.dtype]  # type: ignore[index]  # an overhead has neither a dtype nor a shape
        return f"{self.count:,} × {product} × {size}" if self.count != 1 else f"{product} × {size}"
