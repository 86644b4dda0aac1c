"""Inputs declared as dataclass fields with type, default, limits, label and help. Forms, schemas and docs use them."""

from __future__ import annotations

import dataclasses
import math
import types
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from calculator.common.errors import PlanError, Problem
from calculator.inputs.by_name import is_by_name
from calculator.inputs.unknown_fields import unknown_field

if TYPE_CHECKING:
    from collections.abc import Mapping

T = TypeVar("T")

#: A histogram: pairs of a length and a count.
PAIRS = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """The label, help text and limits of one input."""

    label: str
    help: str
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    example: Any = None
    #: What a form shows for null.
    empty: str = "none"
    #: Whether forms and the command line have a field for this input.
    form: bool = True
    #: The name of that field, if the input's own name says too little outside of its object. Empty otherwise.
    field_name: str = ""
    #: Whether the method has a form field of its own for this input, as the value means something else in other
    #: methods.
    has_field_of_its_own: bool = False
    #: What to use instead of values that users try but that are not among the choices.
    instead: Mapping[str, str] = field(default_factory=dict)


def setting(
    default: Any,
    *,
    label: str,
    help: str,  # noqa: A002  argparse and forms call it help
    minimum: float | None = None,
    maximum: float | None = None,
    unit: str = "",
    example: Any = None,
    empty: str = "none",
    form: bool = True,
    field_name: str = "",
    has_field_of_its_own: bool = False,
    instead: Mapping[str, str] | None = None,
) -> Any:
    """Declare a dataclass field as an input."""
    metadata = Setting(
        label=label,
        help=help,
        minimum=minimum,
        maximum=maximum,
        unit=unit,
        example=example,
        empty=empty,
        form=form,
        field_name=field_name,
        has_field_of_its_own=has_field_of_its_own,
        instead=instead or {},
    )
    return dataclasses.field(default=default, metadata={"setting": metadata})


_PLAIN = frozenset((int, bool, str, types.NoneType))


@dataclass(frozen=True, slots=True, kw_only=True)
class Declared:
    """A declared input: its name, type, default and description."""

    name: str
    #: The index of the input in its class, from 0.
    position: int
    type: Any
    default: Any
    setting: Setting
    #: The types whose values are all valid, except for limits.
    plain: frozenset[type]
    #: The settings class of an input that is an object. None for other inputs.
    nested: type | None
    #: The type of an input that is a dictionary of numbers. None for other inputs.
    by_name: Any

    @property
    def choices(self) -> tuple[Any, ...]:
        """The allowed values of a Literal type, without null."""
        return tuple(
            value for member in _union_members(self.type) if get_origin(member) is Literal for value in get_args(member)
        )


@cache
def declared(cls: type) -> tuple[Declared, ...]:
    """Return every input of a settings dataclass, in the order of its fields."""
    hints = get_type_hints(cls)
    inputs = (field for field in dataclasses.fields(cls) if "setting" in field.metadata)
    return tuple(_declared(position, input_, hints[input_.name]) for position, input_ in enumerate(inputs))


def _declared(position: int, declared: dataclasses.Field[Any], kind: Any) -> Declared:
    members = _union_members(kind)
    return Declared(
        name=declared.name,
        position=position,
        type=kind,
        default=declared.default,
        setting=declared.metadata["setting"],
        plain=_PLAIN.intersection(members),
        nested=next(filter(dataclasses.is_dataclass, members), None),
        by_name=next(filter(is_by_name, members), None),
    )


_POSITION = attrgetter("position")


@cache
def _declared_by_name(cls: type) -> dict[str, Declared]:
    return {field.name: field for field in declared(cls)}


def parse(cls: type[T], value: Any, loc: str, *, ignore: tuple[str, ...] = ()) -> T:
    """Build a settings dataclass from decoded JSON, without coercion. Unknown fields are errors.

    A class can have `respelled`, a function that replaces other spellings of its object, and `OTHER_KEYS`, what to do
    about keys that its fields do not have.

    Raises:
        PlanError: with every problem found, each at its dotted path.
    """
    if not isinstance(value, dict):
        raise PlanError(Problem(loc=loc, msg="must be an object", input=value))
    if not value:
        default: T = _default(cls)  # type: ignore[arg-type]  # a class is hashable
        return default
    declarations = _declared_by_name(cls)  # type: ignore[arg-type]  # a class is hashable
    respelled = getattr(cls, "respelled", None)
    value = respelled(value) if respelled is not None else value
    others = getattr(cls, "OTHER_KEYS", {})
    problems = [
        Problem(
            loc=f"{loc}.{key}",
            msg=others.get(key) or unknown_field(key, declarations),
            input=value[key],
        )
        for key in value
        if key not in declarations and key not in ignore
    ]
    values: dict[str, Any] = {}
    for declaration in sorted([declarations[key] for key in value if key in declarations], key=_POSITION):
        key, given = declaration.name, value[declaration.name]
        wrong = None if type(given) in declaration.plain else mismatch(declaration.type, given)
        message = wrong or out_of_range(declaration.setting, given)
        if message:
            message += instead_of(declaration, given)
            problems.append(Problem(loc=f"{loc}.{key}", msg=message, input=given))
            continue
        try:
            values[key] = _parsed(declaration, given, f"{loc}.{key}")
        except PlanError as error:
            problems.extend(error.problems)
    if problems:
        raise PlanError(*problems)
    return cls(**values)


@cache
def _default(cls: type[T]) -> T:
    """Return an instance with the defaults. Instances are immutable, so that all requests share it."""
    return cls()


def _parsed(declaration: Declared, value: Any, loc: str) -> Any:
    """Return a value in the dataclass's types: tuples for lists, settings classes for objects."""
    if isinstance(value, list):
        return _frozen(value)
    if declaration.by_name is not None and isinstance(value, dict):
        return declaration.by_name(value)
    if declaration.nested is not None and value is not None:
        return parse(declaration.nested, value, loc)
    return value


def _frozen(value: Any) -> Any:
    """Convert a list, and the lists in it, to tuples."""
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def mismatch(kind: Any, value: Any) -> str | None:
    """Return an error that names the expected type, or None if the value has it."""
    members = _union_members(kind)
    if any(_is_of_kind(member, value) for member in members):
        return None
    return "must be " + " or ".join(_wording(member) for member in members)


def instead_of(declaration: Declared, value: Any) -> str:
    """Return a hint on what to use instead of a text: of a value that users try, or a similar choice. Else empty."""
    if not isinstance(value, str):
        return ""
    hint = declaration.setting.instead.get(value) or _similar_choice(declaration.type, value.lower())
    return f". {hint}" if hint else ""


def _similar_choice(kind: Any, text: str) -> str:
    """Return the choice that is spelled like a text, or the only one that contains it, in a hint."""
    choices = [
        choice for member in _union_members(kind) if get_origin(member) is Literal for choice in get_args(member)
    ]
    containing = [choice for choice in choices if text and text in choice]
    similar = get_close_matches(text, choices, n=1, cutoff=0.7) or (containing if len(containing) == 1 else [])
    return f"Use {similar[0]}" if similar else ""


def out_of_range(declaration: Setting, value: Any) -> str | None:
    """Return an error if a number, or a number of a dictionary, exceeds a limit. None otherwise."""
    if isinstance(value, dict):
        return next(filter(None, (out_of_range(declaration, number) for number in value.values())), None)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    low, high = declaration.minimum, declaration.maximum
    if low is not None and value < low:
        return f"must be at least {low:,}"
    if high is not None and value > high:
        return f"must be at most {high:,}"
    return None


def _union_members(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_of_kind(kind: Any, value: Any) -> bool:
    if kind is float:
        return _is_of_kind(int, value) or (isinstance(value, float) and math.isfinite(value))
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if get_origin(kind) is Literal:
        return isinstance(value, str) and value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, list | tuple) and bool(value) and _are_items(get_args(kind), value)
    if is_by_name(kind):
        return isinstance(value, dict) and all(
            name and _is_of_kind(kind.number, number) for name, number in value.items()
        )
    return isinstance(value, dict if dataclasses.is_dataclass(kind) else kind)


def _are_items(kinds: tuple[Any, ...], values: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether every item has its type: one type for all items, or one type for each position."""
    if kinds[-1] is not Ellipsis:
        return len(values) == len(kinds) and all(map(_is_of_kind, kinds, values))
    return all(_is_item(kinds[0], value) for value in values)


def _is_item(kind: Any, value: Any) -> bool:
    """Return whether a list may contain a value. Names must not be empty."""
    return _is_of_kind(kind, value) and value != ""


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    type(None): "null",
}


def _wording(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(kind))
    if kind == PAIRS:
        return "a list of pairs of whole numbers"
    if get_origin(kind) is tuple:
        if get_args(kind)[0] is int:
            return "a list of whole numbers"
        choices = get_args(get_args(kind)[0])
        return f"a list from {', '.join(repr(choice) for choice in choices)}" if choices else "a list of names"
    if is_by_name(kind):
        return "an object of names and whole numbers" if kind.number is int else "an object of names and numbers"
    return "an object" if dataclasses.is_dataclass(kind) else _WORDS[kind]
