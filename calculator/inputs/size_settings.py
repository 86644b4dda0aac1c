"""Settings that are tensor sizes. Requests that differ only in these settings run the same operations."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Settings = TypeVar("Settings")

#: Each setting changes the sizes of tensors, but not which operations run.
SizeName = Literal["r", "sequence_length", "micro_batch_size", "num_virtual_tokens", "bottleneck_size"]

_SIZES = frozenset(get_args(SizeName))


def sizes(settings: object) -> tuple[int, ...]:
    """Return the size settings of a method or of a training, in order."""
    return _readers(type(settings))[0](settings)  # type: ignore[arg-type]  # a class is hashable


def other_settings(settings: object) -> tuple[object, ...]:
    """Return the class of some settings and all values except the sizes."""
    kind: Any = type(settings)
    return (kind, *_readers(kind)[1](settings))


def resized(settings: Settings, change: Callable[[int], int]) -> Settings:
    """Return a copy of the settings with each size changed."""
    kind: Any = type(settings)
    (changed, others), (_, read) = _names(kind), _readers(kind)
    values = dict(zip(others, read(settings), strict=True))  # dataclasses.replace takes twice as long
    values.update(zip(changed, map(change, sizes(settings)), strict=True))
    copy: Settings = kind(**values)
    return copy


@cache
def _names(kind: type) -> tuple[list[str], list[str]]:
    """Return the names of a dataclass's size settings, and of all others."""
    class_: Any = kind
    names = [field.name for field in fields(class_)]
    return [name for name in names if name in _SIZES], [name for name in names if name not in _SIZES]


@cache
def _readers(kind: type) -> tuple[Callable[[object], tuple[Any, ...]], Callable[[object], tuple[Any, ...]]]:
    """Return functions that read the size settings of a dataclass, and all others."""
    changed, others = _names(kind)
    return _reader(changed), _reader(others)


def _reader(names: list[str]) -> Callable[[object], tuple[Any, ...]]:
    """Return a function that reads attributes. An `attrgetter` of one name would return a value, not a tuple."""
    if not names:
        return lambda _: ()
    read = attrgetter(*names)
    return read if len(names) > 1 else lambda settings: (read(settings),)
