"""Dictionaries of numbers as inputs, such as ranks by module name: an object in JSON."""

from __future__ import annotations

from typing import Any, ClassVar


class NumbersByName(dict[str, Any]):
    """A hashable dictionary from names to numbers, since settings must be hashable."""

    #: The type of the numbers.
    number: ClassVar[type]

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        """Return the hash of the items, in their order."""
        return hash(tuple(self.items()))


class WholeNumbersByName(NumbersByName):
    """A hashable dictionary from names to integers."""

    number = int


class DecimalsByName(NumbersByName):
    """A hashable dictionary from names to numbers."""

    number = float


def is_by_name(kind: Any) -> bool:
    """Return whether a type is a dictionary of numbers."""
    return isinstance(kind, type) and issubclass(kind, NumbersByName)
