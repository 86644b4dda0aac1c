"""A lazy value: computed on first use, then kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Deferred(Generic[T]):
    """A lazy value; call it to get the value.

    `make` runs once and is then dropped, together with everything it refers to. Two are equal if their values are.
    """

    __slots__ = ("make", "values")
    __hash__ = None  # type: ignore[assignment]  # a value need not have one

    def __init__(self, make: Callable[[], T]) -> None:
        self.make: Callable[[], T] | None = make
        self.values: list[T] = []

    def __call__(self) -> T:
        """The value."""
        make = self.make
        if make is not None:
            self.values = [make()]
            self.make = None
        return self.values[0]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Deferred) and bool(self() == other())
