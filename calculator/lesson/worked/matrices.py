"""Matrices that a reader types, and their exact products."""

from __future__ import annotations

from fractions import Fraction

from calculator.common.errors import refusal

#: The most rows or columns that a typed matrix may have, and the largest number in it.
MOST = 8
LARGEST = 10**6

Matrix = tuple[tuple[Fraction, ...], ...]


def matrix(text: str, loc: str) -> Matrix:
    """A typed matrix: rows apart by semicolons, numbers by commas or spaces.

    Raises:
        PlanError: where it is none, or too large.
    """
    rows = tuple(tuple(_number(word, loc, text) for word in row.replace(",", " ").split()) for row in text.split(";"))
    widths = {len(row) for row in rows}
    if widths == {0} or 0 in widths:
        raise refusal(loc, "must have numbers in every row, such as 1, 2; 3, 4", text)
    if len(widths) > 1:
        raise refusal(loc, f"has rows of {_listed(sorted(widths))} numbers; every row must have as many", text)
    if len(rows) > MOST or max(widths) > MOST:
        raise refusal(loc, f"is {len(rows)} × {max(widths)}; the most is {MOST} × {MOST}", text)
    return rows


def column(text: str, loc: str) -> Matrix:
    """A typed vector as a matrix of one column, however its numbers are set apart.

    Raises:
        PlanError: where it is none, or too long.
    """
    numbers = matrix(text.replace(";", " "), loc)[0]
    return tuple((number,) for number in numbers)


def product(left: Matrix, right: Matrix) -> Matrix:
    """The matrix product; the caller has seen to the shapes."""
    columns = tuple(zip(*right, strict=True))
    return tuple(
        tuple(sum((a * b for a, b in zip(row, col, strict=True)), Fraction(0)) for col in columns) for row in left
    )


def total(left: Matrix, right: Matrix) -> Matrix:
    """The sum of two matrices of one shape."""
    return tuple(tuple(a + b for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True))


def times(factor: Fraction, told: Matrix) -> Matrix:
    """A matrix scaled."""
    return tuple(tuple(factor * number for number in row) for row in told)


def shape(told: Matrix) -> tuple[int, int]:
    """Rows and columns."""
    return len(told), len(told[0])


def floats(told: Matrix) -> tuple[tuple[float, ...], ...]:
    """The nearest floats of every number."""
    return tuple(tuple(float(number) for number in row) for row in told)


def _number(word: str, loc: str, text: str) -> Fraction:
    try:
        number = Fraction(word) if len(word) <= 20 and "/" not in word else None
    except ValueError:
        number = None
    if number is None:
        raise refusal(loc, f"has {word[:20]!r}, which is no number; write rows as 1, 2; 3, 4", text)
    if abs(number) > LARGEST:
        raise refusal(loc, f"has {word}; numbers go from −{LARGEST:,} to {LARGEST:,}", text)
    return number


def _listed(widths: list[int]) -> str:
    return " and ".join(str(width) for width in widths)
