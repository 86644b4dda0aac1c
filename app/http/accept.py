"""Which of a few media types a client would rather have, by its Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A weight as the standard writes it; another counts as none given.
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Range:
    """A part of the header: a type, `text/*` or `*/*`, and its weight, 0 to 1; 0 refuses."""

    named: str
    weight: float

    def precision(self, kind: str) -> int:
        """How closely it names a type: 3 by its whole name, 2 by its first half, 1 with all others, 0 not at all."""
        names = ("*/*", f"{kind.partition('/')[0]}/*", kind)
        return names.index(self.named) + 1 if self.named in names else 0


def preferred(header: str, kinds: Iterable[str]) -> str:
    """The type of the greatest weight, of equal ones that which is named most closely, then the first.

    Where the header names none of them, or refuses them all, the first: an answer is better than none.
    """
    ranges = [_range(part) for part in header.lower().split(",")]
    return max(kinds, key=lambda kind: _liking(kind, ranges))


def _liking(kind: str, ranges: list[Range]) -> tuple[float, int]:
    precision, weight = max((each.precision(kind), each.weight) for each in ranges)
    return (weight, precision) if precision and weight else (0.0, 0)


def _range(part: str) -> Range:
    named, *parameters = (each.strip() for each in part.split(";"))
    weights = (value.strip() for name, _, value in (each.partition("=") for each in parameters) if name.strip() == "q")
    weight = next(weights, "")
    return Range(named=named, weight=float(weight) if _WEIGHT.fullmatch(weight) else 1.0)
