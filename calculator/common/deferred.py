"""A lazy value: computed on first use, and then kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Deferred(Generic[T]):
    """A lazy value. Call it to get the value.

    `make` runs once. It is then dropped, together with all that it refers to. Two lazy values are equal if their values
    are equal.
    """

    __slots__ = ("make", "values")
    __hash__ = None  # type: ignore[assignment]  # a value need not have one

    def __init__(self, make: Callable[[], T]) -> None:
        self.make: Callable[[], T] | None = make
        self.values: list[T] = []

    def __call__(self) -> T:
        """Return the value. The first call computes it."""
        make = self.make
        if make is not None:
            self.values = [make()]
            self.make = None
        return self.values[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Deferred) and bool(self() == other())
