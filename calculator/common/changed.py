"""Copies of dataclasses in which some fields differ, several times as fast as `dataclasses.replace`."""

from __future__ import annotations

from collections import deque
from dataclasses import fields
from functools import cache
from itertools import repeat
from operator import attrgetter
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Kind = TypeVar("Kind")


def changed(original: object, kind: type[Kind], changes: Mapping[str, object]) -> Kind:
    """Return a copy of a dataclass, as that class or a related one, without the checks of its constructor.

    `changes` has the values of the fields that differ, and of those that the original does not have.
    """
    copy = object.__new__(kind)
    names, values_of = _shared_fields(type(original), kind)  # type: ignore[arg-type]  # a class is hashable
    for each in ((names, values_of(original)), (changes.keys(), changes.values())):
        deque(map(object.__setattr__, repeat(copy), *each), maxlen=0)
    return copy


@cache
def _shared_fields(original: type, kind: type) -> tuple[tuple[str, ...], Callable[[object], tuple[Any, ...]]]:
    """Return the names of the fields that two dataclasses share, which are several, and a function that reads them."""
    shared = {field.name for field in fields(original)}
    names = tuple(field.name for field in fields(kind) if field.name in shared)
    return names, cast("Callable[[object], tuple[Any, ...]]", attrgetter(*names))
