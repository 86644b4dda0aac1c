"""Pydantic models made from the calculator's declared settings. They document requests; the calculator validates."""

from __future__ import annotations

from dataclasses import is_dataclass
from functools import reduce
from operator import or_
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, create_model

from calculator.inputs.by_name import is_by_name
from calculator.inputs.settings import Declared, declared

STRICT = ConfigDict(extra="forbid", strict=True)


def example(declaration: Declared) -> Any:
    """Return an example value of a setting."""
    if declaration.setting.example is not None:
        return declaration.setting.example
    if declaration.default is not None:
        return declaration.default
    return declaration.choices[0] if declaration.choices else declaration.setting.minimum


def field(declaration: Declared) -> tuple[Any, Any]:
    """Return a setting as the type and the Field of a Pydantic model."""
    unit = f" In {declaration.setting.unit}." if declaration.setting.unit else ""
    info = Field(
        default=_plain(declaration.default),
        title=declaration.setting.label,
        description=f"{declaration.setting.help}{unit}",
        examples=[_plain(example(declaration))],
    )
    return _json_type(declaration.type, _limits(declaration)), info


def _plain(value: Any) -> Any:
    """Return an object as Pydantic encodes it: a dict of no class of its own."""
    return dict(value) if isinstance(value, dict) else value


def model(title: str, cls: type, /, **leading: Any) -> type[BaseModel]:
    """Return the Pydantic model of a dataclass of settings, with `leading` fields before them."""
    fields = {**leading, **{declaration.name: field(declaration) for declaration in declared(cls)}}
    built: type[BaseModel] = create_model(title, __config__=STRICT, __doc__=summary(cls), **fields)
    return built


def summary(cls: type) -> str:
    """Return the first line of a class's docstring."""
    return (cls.__doc__ or "").strip().splitlines()[0]


def _limits(declaration: Declared) -> Any:
    low, high = declaration.setting.minimum, declaration.setting.maximum
    return Field(ge=low, le=high) if low is not None or high is not None else None


def _json_type(kind: Any, limits: Any) -> Any:
    """Return the type as JSON has it: lists for tuples, and limits on numbers."""
    if get_origin(kind) is tuple:
        item = get_args(kind)[0]
        if get_origin(item) is tuple:
            item = Annotated[list[int], Field(min_length=2, max_length=2)]
        element = Annotated[str, Field(min_length=1)] if item is str else item
        return Annotated[list[element], Field(min_length=1)]  # type: ignore[valid-type]
    if is_by_name(kind):
        return dict[Annotated[str, Field(min_length=1)], _json_type(kind.number, limits)]  # type: ignore[misc]
    if kind in (int, float):
        return Annotated[kind, limits] if limits else kind
    if is_dataclass(kind):
        return model(kind.__name__, kind)  # type: ignore[union-attr,arg-type]  # a class, not an instance
    if get_origin(kind) is Literal or not get_args(kind):
        return kind
    return reduce(or_, (_json_type(member, limits) for member in get_args(kind)))
