"""Settings that are tensor sizes. Requests that differ only in these settings run the same operations."""

from __future__ import annotations

from dataclasses import fields
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Settings = TypeVar("Settings")

#: Each setting changes the sizes of tensors, but not which operations run.
SizeName = Literal["r", "sequence_length", "micro_batch_size", "num_virtual_tokens", "bottleneck_size"]

_SIZES = frozenset(get_args(SizeName))


def sizes(settings: object) -> list[int]:
    """Return the size settings of a method or of a training, in order."""
    return [getattr(settings, name) for name in _named(settings)[0]]


def other_settings(settings: object) -> tuple[object, ...]:
    """Return the class of some settings and all values except the sizes."""
    return (type(settings), *_read_other_fields(type(settings))(settings))  # type: ignore[arg-type]  # a class is hashable


def resized(settings: Settings, change: Callable[[int], int]) -> Settings:
    """Return a copy of the settings with each size changed."""
    kind, (changed, others) = type(settings), _named(settings)
    values = dict(zip(others, _read_other_fields(kind)(settings), strict=True))  # type: ignore[arg-type]
    return kind(**values, **{name: change(getattr(settings, name)) for name in changed})


def _named(settings: object) -> tuple[list[str], list[str]]:
    return _names(type(settings))  # type: ignore[arg-type]  # a class is hashable


@cache
def _read_other_fields(kind: type) -> Callable[[object], tuple[object, ...]]:
    """Return a function that reads all values of a dataclass except the sizes."""
    _, names = _names(kind)
    return attrgetter(*names) if len(names) > 1 else lambda settings: tuple([getattr(settings, name) for name in names])


@cache
def _names(kind: type) -> tuple[list[str], list[str]]:
    """Return the names of a dataclass's size settings, and of its other settings."""
    names = [field.name for field in fields(kind)]
    return [name for name in names if name in _SIZES], [name for name in names if name not in _SIZES]
