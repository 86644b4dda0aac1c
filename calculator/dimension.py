"""Named dimensions: integers that remember what they count, so that a formula is derived from a shape."""

from __future__ import annotations

from math import prod
from typing import Self


class Dim(int):
    """A dimension's size and the name that `config.json` or the papers give it.

    Arithmetic gives a Dim whose name is the expression: `2 * Dim(8, "hidden_size")` is named `2 × hidden_size`.
    """

    name: str

    def __new__(cls, size: int, name: str) -> Self:
        """Name a size."""
        self = super().__new__(cls, size)
        self.name = name
        return self

    def __mul__(self, other: int) -> Dim:
        return Dim(int(self) * int(other), f"{_factor(self)} × {_factor(other)}")

    def __rmul__(self, other: int) -> Dim:
        return Dim(int(self) * int(other), f"{_factor(other)} × {_factor(self)}")

    def __add__(self, other: int) -> Dim:
        return Dim(int(self) + int(other), f"{dim_name(self)} + {dim_name(other)}")

    def __radd__(self, other: int) -> Dim:
        return Dim(int(self) + int(other), f"{dim_name(other)} + {dim_name(self)}")


Shape = tuple[int, ...]


def dim_name(size: int) -> str:
    """A dimension's name, or its digits where it has none."""
    return size.name if isinstance(size, Dim) else f"{size:,}"


def _factor(size: int) -> str:
    name = dim_name(size)
    return f"({name})" if " + " in name else name


def elements(shape: Shape) -> int:
    """The number of elements of a tensor of this shape."""
    return prod(int(size) for size in shape)


def symbolic(shape: Shape) -> str:
    """The shape as a product of names: `B × S × hidden_size`."""
    return " × ".join(_factor(size) for size in shape) or "1"


def substituted(shape: Shape) -> str:
    """The shape as a product of numbers: `4 × 2,048 × 4,096`."""
    return " × ".join(f"{int(size):,}" for size in shape) or "1"
