"""The settings that are sizes of tensors. Plans that differ in nothing else run the same operations."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

if TYPE_CHECKING:
    from collections.abc import Callable

Settings = TypeVar("Settings")

#: None says anything but how large tensors are: plans that differ in one of these alone are taken to run the same.
SizeName = Literal["r", "sequence_length", "micro_batch_size", "num_virtual_tokens", "bottleneck_size"]

_SIZES = frozenset(get_args(SizeName))


def sizes(settings: object) -> list[int]:
    """Those of a method or of the training, in order."""
    return [getattr(settings, name) for name in _named(settings)[0]]


def other_settings(settings: object) -> tuple[object, ...]:
    """What it says beside them, and what it is."""
    return (type(settings), *[getattr(settings, name) for name in _named(settings)[1]])


def resized(settings: Settings, change: Callable[[int], int]) -> Settings:
    """The same with another number for each of its sizes."""
    told = {name: change(getattr(settings, name)) for name in _named(settings)[0]}
    return replace(settings, **told)  # type: ignore[type-var]  # a method and the training are dataclasses


def _named(settings: object) -> tuple[list[str], list[str]]:
    return _names(type(settings))  # type: ignore[arg-type]  # a class is hashable


@cache
def _names(kind: type) -> tuple[list[str], list[str]]:
    """The names of its settings that are sizes, and of the others."""
    names = [field.name for field in fields(kind)]
    return [name for name in names if name in _SIZES], [name for name in names if name not in _SIZES]
