"""The strict reader of a `config.json`. Fields are declared as data and resolved as transformers' config class does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from calculator.architecture.dimension import Dim
from calculator.common.errors import PlanError, Problem, refusal, shown

#: Resolved values by canonical name.
Config = Mapping[str, Any]

#: size: a whole number from 1, read as a Dim; count: a whole number from 0; number: a finite number; flag: a boolean;
#: text: a string; names: a list of strings; terms: such a list, or one string with bars between; indices: a list of
#: whole numbers; items: any list; object: an object.
FieldType = Literal[
    "size", "count", "number", "flag", "text", "names", "terms", "indices", "items", "object", "pattern"
]

#: The default of a required field.
REQUIRED: Any = object()

#: The largest accepted size.
LARGEST_SIZE = 1 << 24

#: The largest accepted number.
LARGEST_NUMBER = 1e15


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field of a family's `config.json`."""

    #: The canonical name.
    name: str
    type: FieldType
    default: Any = REQUIRED
    #: Whether the field may be null.
    nullable: bool = False
    #: A function that computes the value for null from the fields before it.
    null: Callable[[Config], Any] | None = None
    #: The name of the field in the config class if it differs (`n_embd` for `hidden_size`).
    spelled: str | None = None
    #: Other names that the config class accepts.
    aliases: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def own_name(self) -> str:
        """The name of the field in the config class."""
        return self.spelled or self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """A value that the config class computes from the fields before it. It may replace one of them."""

    name: str
    value: Callable[[Config], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A consistency check between fields. `problem` returns what is wrong with the field `name`, or None."""

    name: str
    problem: Callable[[Config], str | None]


Entry = Field | Computed | Check


class ContradictionError(ValueError):
    """Raised by the function of a `Computed` value. `name` is the canonical name of the wrong field."""

    def __init__(self, name: str, message: str) -> None:
        self.name = name
        super().__init__(message)


def read(entries: tuple[Entry, ...], raw: Mapping[str, Any], loc: str = "model.config") -> Config:
    """Resolve a `config.json`: check types and limits, fill in defaults, and convert sizes to Dims.

    The result has canonical names. Keys that no entry declares are ignored.

    Raises:
        PlanError: with every invalid field. If all fields are valid, with every contradiction between fields.
    """
    written = {entry.name: _written(entry, raw) for entry in entries if isinstance(entry, Field)}
    problems = [
        Problem(loc=f"{loc}.{written[entry.name]}", msg=message, input=raw.get(written[entry.name]))
        for entry in entries
        if isinstance(entry, Field) and (message := _type_problem(entry, raw, written[entry.name]))
    ]
    if problems:
        raise PlanError(*problems)
    values: dict[str, Any] = {}
    for entry in entries:
        try:
            message, at_fault = _resolve(entry, raw, written, values), entry.name
        except ContradictionError as contradiction:
            name = written.get(contradiction.name, contradiction.name)
            raise refusal(f"{loc}.{name}", str(contradiction), raw.get(name)) from contradiction
        if message:
            name = written.get(at_fault, at_fault)
            problems.append(Problem(loc=f"{loc}.{name}", msg=message, input=raw.get(name, values.get(at_fault))))
    if problems:
        raise PlanError(*problems)
    return MappingProxyType(values)


def _resolve(entry: Entry, raw: Mapping[str, Any], written: Mapping[str, str], values: dict[str, Any]) -> str | None:
    if isinstance(entry, Check):
        return entry.problem(values)
    if isinstance(entry, Computed):
        values[entry.name] = entry.value(values)
        return None
    value = raw.get(written[entry.name], entry.default)
    if value is None and entry.null:
        value = entry.null(values)
    values[entry.name] = _immutable(entry, value)
    return None


def _immutable(field: Field, value: Any) -> Any:
    if field.type == "size" and value is not None:
        return Dim(value, field.name)
    return tuple(value) if isinstance(value, list) else value


def _written(field: Field, raw: Mapping[str, Any]) -> str:
    """Return the name of the field in the file, or the name in the config class if the file lacks it."""
    present = [name for name in (field.own_name, *field.aliases) if name in raw]
    return next((name for name in present if raw[name] is not None), present[0] if present else field.own_name)


def _type_problem(field: Field, raw: Mapping[str, Any], name: str) -> str | None:
    if name not in raw:
        return f"is required: {_WORDS[field.type]}" if field.default is REQUIRED else None
    value = raw[name]
    other = next((n for n in (field.own_name, *field.aliases) if raw.get(n, value) not in (value, None)), None)
    if other:
        return f"{name} is {shown(value)}, but {other}, another name for it, is {shown(raw[other])}; keep one of them"
    null = next((n for n in (field.own_name, *field.aliases) if n in raw and raw[n] is None), name)
    if null != name and not field.nullable:
        return f"{null}, another name for it, is null; leave it out"
    if value is None:
        return None if field.nullable else f"must be {_WORDS[field.type]}, not null; leave it out for the default"
    if not _is_of_kind(field.type, value):
        return f"must be {_WORDS[field.type]}{' or null' if field.nullable else ''}, not {shown(value)}"
    return _out_of_range(field, value)


def _out_of_range(field: Field, value: Any) -> str | None:
    if field.choices and value not in field.choices:
        return f"must be one of {', '.join(field.choices)}, not {shown(value)}"
    if field.type not in ("size", "count", "number"):
        return None
    low, high = _limits(field)
    if value < low:
        return f"must be at least {low:,}, not {shown(value)}"
    return f"must be at most {high:,}, not {shown(value)}" if value > high else None


def _limits(field: Field) -> tuple[float, float]:
    low, high = _LIMITS[field.type]
    low = low if field.minimum is None else field.minimum
    high = high if field.maximum is None else field.maximum
    return low, high


def _is_of_kind(kind: FieldType, value: Any) -> bool:
    if kind in ("size", "count"):
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "number":
        whole = isinstance(value, int) and not isinstance(value, bool)
        return whole or (isinstance(value, float) and math.isfinite(value))
    if kind == "names":
        return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
    if kind == "terms":
        return isinstance(value, str) or _is_of_kind("names", value)
    if kind == "indices":
        return isinstance(value, list | tuple) and all(_is_of_kind("count", item) for item in value)
    return isinstance(value, _CLASSES[kind])


_LIMITS: dict[FieldType, tuple[float, float]] = {
    "size": (1, LARGEST_SIZE),
    "count": (0, LARGEST_SIZE),
    "number": (-LARGEST_NUMBER, LARGEST_NUMBER),
}

_CLASSES: dict[str, type | tuple[type, ...]] = {
    "flag": bool,
    "text": str,
    "items": (list, tuple),
    "object": dict,
    "pattern": (int, str),
}

_WORDS: dict[FieldType, str] = {
    "size": "a whole number above 0",
    "count": "a whole number from 0",
    "number": "a number",
    "flag": "true or false",
    "text": "a string",
    "names": "a list of strings",
    "terms": "a list of strings, or one string with bars between them",
    "indices": "a list of whole numbers",
    "items": "a list",
    "object": "an object",
    "pattern": "a whole number or a string",
}
