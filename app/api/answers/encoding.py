"""The JSON of an answer, written from the calculator's value: its model declares the members, and is not built.

What the calculator returns is valid. To build a model of it takes longer than the estimate; the text is the same.
"""

from __future__ import annotations

from functools import cache, partial
from operator import attrgetter
from types import UnionType
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic.fields import FieldInfo

    Reader = Callable[[Any], Any]


def encoded(kind: type[BaseModel], value: Any) -> bytes:
    """Return the JSON of `kind.model_validate(value)`."""
    return to_json(_model_reader(kind)(value))


@cache
def _model_reader(kind: type[BaseModel]) -> Reader:
    """Return a function from a value to the dictionary of its members."""
    before = [getattr(kind, name) for name in kind.__pydantic_decorators__.model_validators]
    readers = {name: _field_reader(field) for name, field in kind.model_fields.items()}
    if not before and not any(readers.values()) and len(readers) > 1:
        names, values = tuple(readers), attrgetter(*readers)
        return lambda value: dict(zip(names, values(value), strict=True))

    def read(value: Any) -> dict[str, Any]:
        for prepare in before:
            value = prepare(value)
        member = value.__getitem__ if isinstance(value, dict) else partial(getattr, value)
        return {name: reader(member(name)) if reader else member(name) for name, reader in readers.items()}

    return read


def _field_reader(field: FieldInfo) -> Reader | None:
    """Return how a field's value becomes JSON; None if it is JSON already."""
    prepare = next((each.func for each in field.metadata if isinstance(each, BeforeValidator)), None)
    return prepare or _reader(field.annotation)  # type: ignore[return-value]  # a validator of one argument


def _reader(annotation: Any) -> Reader | None:
    if annotation is float:
        return float
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model_reader(annotation)
    arguments = get_args(annotation)
    readers = [reader for each in arguments if (reader := _reader(each)) is not None]
    if not readers or get_origin(annotation) is dict:
        return None
    reader = readers[0]
    if len(readers) > 1:
        raise TypeError(f"{annotation} has more than one model: its value does not state which")
    if get_origin(annotation) is tuple:
        return lambda values: [reader(value) for value in values]
    if get_origin(annotation) in (Union, UnionType) and type(None) in arguments:
        return lambda value: None if value is None else reader(value)
    raise TypeError(f"{annotation} has no reader: give it the form of a model, a tuple of models, or either or None")
