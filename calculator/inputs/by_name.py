"""Numbers by name, such as the ranks of modules: an object in JSON."""

from __future__ import annotations

from typing import Any, ClassVar


class NumbersByName(dict[str, Any]):
    """An object of names and numbers. Settings are hashable, so it is too."""

    #: The type of its numbers.
    number: ClassVar[type]

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none
        """Hash the names and numbers in their order."""
        return hash(tuple(self.items()))


class WholeNumbersByName(NumbersByName):
    """An object of names and whole numbers."""

    number = int


class DecimalsByName(NumbersByName):
    """An object of names and numbers."""

    number = float


def is_by_name(kind: Any) -> bool:
    """Whether a type is one of numbers by name."""
    return isinstance(kind, type) and issubclass(kind, NumbersByName)
