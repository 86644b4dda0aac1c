"""The bytes of several things together."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


class Sized(Protocol):
    """Anything that takes some bytes: a tensor, a component of memory, a workspace."""

    @property
    def bytes(self) -> int:
        """The bytes that it takes."""


_BYTES: Callable[[Sized], int] = attrgetter("bytes")


def total_bytes(parts: Iterable[Sized]) -> int:
    """Return the bytes of some things together."""
    return sum(map(_BYTES, parts))
