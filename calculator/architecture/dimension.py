"""Named dimensions: integers that know what they count, so that formulas follow from shapes."""

from __future__ import annotations

from math import prod
from operator import pos
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Dim(int):
    """A size and its name, as in `config.json` or the papers.

    Arithmetic gives a Dim whose name is the expression: `2 * Dim(8, "hidden_size")` is named `2 × hidden_size`. A name
    is built when it is first read; most never are.
    """

    _name: str | tuple[str, int, int] | Callable[[], str]
    #: Kept once they are built, because many shapes have the same dimension.
    _factor: str | None = None
    _digits: str | None = None

    def __new__(cls, size: int, name: str | tuple[str, int, int] | Callable[[], str]) -> Self:
        """Wrap a size with its name, with an operator and two operands, or with a function that returns the name."""
        self = super().__new__(cls, size)
        self._name = name
        return self

    def renamed(self, name: str) -> Dim:
        """The same size under another name."""
        return Dim(self, name)

    def divided(self, count: Dim) -> Dim:
        """The largest of `count` equal parts, the last of which may be smaller."""
        return Dim(ceil_div(self, count), ("/", self, count))

    @property
    def name(self) -> str:
        """What it counts."""
        if isinstance(self._name, tuple):
            operator, left, right = self._name
            name = dim_name if operator == "+" else _factor
            self._name = f"{name(left)} {operator} {name(right)}"
        elif not isinstance(self._name, str):
            self._name = self._name()
        return self._name

    @property
    def factor(self) -> str:
        """The name as a factor of a product."""
        if self._factor is None:
            self._factor = f"({self.name})" if " + " in self.name else self.name
        return self._factor

    @property
    def digits(self) -> str:
        """The size as text."""
        if self._digits is None:
            self._digits = f"{int(self):,}"
        return self._digits

    def __mul__(self, other: int) -> Dim:
        return Dim(int.__mul__(self, other), ("×", self, other))

    def __rmul__(self, other: int) -> Dim:
        return Dim(int.__mul__(self, other), ("×", other, self))

    def __add__(self, other: int) -> Dim:
        return Dim(int.__add__(self, other), ("+", self, other))

    def __radd__(self, other: int) -> Dim:
        return Dim(int.__add__(self, other), ("+", other, self))


Shape = tuple[int, ...]


def ceil_div(size: int, count: int) -> int:
    """The quotient, rounded up."""
    return (size + count - 1) // count


def named(size: int, name: str) -> Dim:
    """A size under a name; a name that it has is replaced."""
    return size.renamed(name) if isinstance(size, Dim) else Dim(size, name)


def dim_name(size: int) -> str:
    """A dimension's name, or its digits if it has none."""
    return size.name if isinstance(size, Dim) else f"{size:,}"


def _factor(size: int) -> str:
    return size.factor if isinstance(size, Dim) else f"{size:,}"


def _digits(size: int) -> str:
    return size.digits if isinstance(size, Dim) else f"{size:,}"


def elements(shape: Shape) -> int:
    """The number of elements of a tensor of this shape."""
    if len(shape) < 2:
        return +shape[0] if shape else 1
    return prod(map(pos, shape))


def symbolic(shape: Shape) -> str:
    """The shape as a product of names: `B × S × hidden_size`."""
    return " × ".join(map(_factor, shape)) or "1"


def substituted(shape: Shape) -> str:
    """The shape as a product of numbers: `4 × 2,048 × 4,096`."""
    return " × ".join(map(_digits, shape)) or "1"
