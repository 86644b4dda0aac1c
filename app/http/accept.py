"""Content negotiation by the Accept header (RFC 9110, section 12.5.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A weight as the standard writes it; any other weight is ignored.
_WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class MediaRange:
    """A media range of the header: a type, `text/*` or `*/*`, with its weight from 0 to 1; 0 means not acceptable."""

    name: str
    weight: float

    def precision(self, media_type: str) -> int:
        """Return how precisely it matches: 3 the whole type, 2 its first half, 1 any type, 0 no match."""
        names = ("*/*", f"{media_type.partition('/')[0]}/*", media_type)
        return names.index(self.name) + 1 if self.name in names else 0


def preferred(header: str, media_types: Iterable[str]) -> str:
    """Return the type with the highest weight; among equals the most precise match, then the first type.

    If the header accepts none of them, return the first: a response is better than none.
    """
    ranges = [_range(part) for part in header.lower().split(",")]
    return max(media_types, key=lambda media_type: _preference(media_type, ranges))


def _preference(media_type: str, ranges: list[MediaRange]) -> tuple[float, int]:
    precision, weight = max((range_.precision(media_type), range_.weight) for range_ in ranges)
    return (weight, precision) if precision and weight else (0.0, 0)


def _range(part: str) -> MediaRange:
    name, *parameters = (piece.strip() for piece in part.split(";"))
    weights = (
        value.strip()
        for name, _, value in (parameter.partition("=") for parameter in parameters)
        if name.strip() == "q"
    )
    weight = next(weights, "")
    return MediaRange(name=name, weight=float(weight) if _WEIGHT.fullmatch(weight) else 1.0)
