"""Storage formats of weights, as functions that round a number to the format."""

from __future__ import annotations

import struct
from fractions import Fraction
from typing import TYPE_CHECKING

from calculator.lesson.worked.block import nf4_block

if TYPE_CHECKING:
    from collections.abc import Callable

    from calculator.lesson.worked.matrices import Matrix


def float32(value: Fraction) -> Fraction:
    """Return the nearest float32."""
    return Fraction(struct.unpack("<f", struct.pack("<f", float(value)))[0])


def bfloat16(value: Fraction) -> Fraction:
    """Return the nearest bfloat16, with ties to even: the upper half of the rounded float32."""
    (bits,) = struct.unpack("<I", struct.pack("<f", float(value)))
    upper = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return Fraction(struct.unpack("<f", struct.pack("<I", upper << 16))[0])


def _elementwise(round_one: Callable[[Fraction], Fraction]) -> Callable[[Matrix], Matrix]:
    return lambda values: tuple(tuple(round_one(value) for value in row) for row in values)


STORED: dict[str, Callable[[Matrix], Matrix]] = {
    "float32": _elementwise(float32),
    "bfloat16": _elementwise(bfloat16),
    "nf4": nf4_block,
}
