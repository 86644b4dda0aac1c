"""Parsing of matrices from text, and their exact products."""

from __future__ import annotations

from fractions import Fraction

from calculator.common.errors import refusal

#: The largest number of rows or columns, and the largest absolute value of an entry.
MOST = 8
LARGEST = 10**6

Matrix = tuple[tuple[Fraction, ...], ...]


def matrix(text: str, loc: str) -> Matrix:
    """Parse a matrix: semicolons separate rows, commas or spaces separate numbers.

    Raises:
        PlanError: if the text is not a matrix, or the matrix is too large.
    """
    rows = tuple(tuple(_number(word, loc, text) for word in row.replace(",", " ").split()) for row in text.split(";"))
    widths = {len(row) for row in rows}
    if widths == {0} or 0 in widths:
        raise refusal(loc, "must have numbers in every row, such as 1, 2; 3, 4", text)
    if len(widths) > 1:
        raise refusal(loc, f"has rows of {_listed(sorted(widths))} numbers; every row must have the same number", text)
    if len(rows) > MOST or max(widths) > MOST:
        raise refusal(loc, f"is {len(rows)} × {max(widths)}; the most is {MOST} × {MOST}", text)
    return rows


def column(text: str, loc: str) -> Matrix:
    """Parse a vector as a matrix of one column, with any separators.

    Raises:
        PlanError: if the text is not a vector, or the vector is too long.
    """
    numbers = matrix(text.replace(";", " "), loc)[0]
    return tuple((number,) for number in numbers)


def product(left: Matrix, right: Matrix) -> Matrix:
    """Return the matrix product. The shapes must match."""
    columns = tuple(zip(*right, strict=True))
    return tuple(
        tuple(sum((a * b for a, b in zip(row, col, strict=True)), Fraction(0)) for col in columns) for row in left
    )


def add(left: Matrix, right: Matrix) -> Matrix:
    """Return the sum of two matrices of the same shape."""
    return tuple(tuple(a + b for a, b in zip(*rows, strict=True)) for rows in zip(left, right, strict=True))


def scale(factor: Fraction, values: Matrix) -> Matrix:
    """Return the matrix multiplied by a number."""
    return tuple(tuple(factor * number for number in row) for row in values)


def shape(values: Matrix) -> tuple[int, int]:
    """Return the number of rows and of columns."""
    return len(values), len(values[0])


def floats(values: Matrix) -> tuple[tuple[float, ...], ...]:
    """Round every number to the nearest float."""
    return tuple(tuple(float(number) for number in row) for row in values)


def _number(word: str, loc: str, text: str) -> Fraction:
    try:
        number = Fraction(word) if len(word) <= 20 and "/" not in word else None
    except ValueError:
        number = None
    if number is None:
        raise refusal(loc, f"has {word[:20]!r}, which is not a number; write rows as 1, 2; 3, 4", text)
    if abs(number) > LARGEST:
        raise refusal(loc, f"has {word}; numbers must be between −{LARGEST:,} and {LARGEST:,}", text)
    return number


def _listed(widths: list[int]) -> str:
    return " and ".join(str(width) for width in widths)
