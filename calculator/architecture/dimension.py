"""Named dimensions: integers with the name of what they count, so that formulas derive from shapes."""

from __future__ import annotations

from math import prod
from operator import pos
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class Dim(int):
    """A size and its name, as in `config.json` or the papers.

    Arithmetic returns a Dim whose name is the expression: `2 * Dim(8, "hidden_size")` is named `2 × hidden_size`. A
    name is built on first access; most names are never read.
    """

    _name: str | tuple[str, int, int] | Callable[[], str]
    #: Caches, because many shapes have the same dimension.
    _factor: str | None = None
    _digits: str | None = None

    def __new__(cls, size: int, name: str | tuple[str, int, int] | Callable[[], str]) -> Self:
        """Create a dimension from a name, an operator with two operands, or a function that returns the name."""
        self = int.__new__(cls, size)  # faster than `super`
        self._name = name
        return self

    def renamed(self, name: str) -> Dim:
        """Return the same size with another name."""
        return Dim(self, name)

    def is_named(self, name: str) -> bool:
        """Return whether the size has a name that is no expression."""
        return self._name == name

    def divided(self, count: Dim) -> Dim:
        """Return the size of the largest of `count` equal parts. The last part may be smaller."""
        return Dim(ceil_div(self, count), ("/", self, count))

    @property
    def name(self) -> str:
        """The name of what the size counts."""
        if isinstance(self._name, tuple):
            operator, left, right = self._name
            name = dim_name if operator == "+" else _factor
            self._name = f"{name(left)} {operator} {name(right)}"
        elif not isinstance(self._name, str):
            self._name = self._name()
        return self._name

    @property
    def factor(self) -> str:
        """The name as a factor of a product, in parentheses if it is a sum."""
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
    """Return the quotient, rounded up."""
    return (size + count - 1) // count


def named(size: int, name: str) -> Dim:
    """Return a size with a name, which replaces any other name."""
    return size.renamed(name) if isinstance(size, Dim) else Dim(size, name)


def dim_name(size: int) -> str:
    """Return the name of a dimension, or its digits if it has none."""
    return size.name if isinstance(size, Dim) else f"{size:,}"


def _factor(size: int) -> str:
    return size.factor if isinstance(size, Dim) else f"{size:,}"


def _digits(size: int) -> str:
    return size.digits if isinstance(size, Dim) else f"{size:,}"


def elements(shape: Shape) -> int:
    """Return the number of elements of a tensor with this shape."""
    if len(shape) == 2:
        return +shape[0] * +shape[1]  # half the time of `prod`
    if len(shape) < 2:
        return +shape[0] if shape else 1
    return prod(map(pos, shape))


def symbolic(shape: Shape) -> str:
    """Return a shape as a product of names: `B × S × hidden_size`."""
    return " × ".join(map(_factor, shape)) or "1"


def substituted(shape: Shape) -> str:
    """Return a shape as a product of numbers: `4 × 2,048 × 4,096`."""
    return " × ".join(map(_digits, shape)) or "1"
