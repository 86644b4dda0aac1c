"""The JSON of an answer, written from the calculator's value. The response model is not built.

The calculator's values are valid. Building a model, or a dictionary for each row, takes longer than the estimate, and
gives the same text.
"""

from __future__ import annotations

from functools import cache
from json.encoder import encode_basestring
from operator import attrgetter
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, BeforeValidator
from pydantic_core import to_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.fields import FieldInfo

    from app.api.answers.answer import Answer

    Writer = Callable[[Any], str]


def encoded(kind: type[BaseModel], value: Any) -> bytes:
    """Return the JSON of `kind.model_validate(value)`."""
    return _model_writer(kind)(value).encode()


@cache
def _model_writer(kind: type[BaseModel]) -> Writer:
    """Return a function from a value to the JSON of a model of it."""
    before = [getattr(kind, name) for name in kind.__pydantic_decorators__.model_validators]
    writers = {name: _field_writer(field) for name, field in kind.model_fields.items()}
    if getattr(kind, "own", ()):
        return _form_writer(writers, kind.varying)  # type: ignore[attr-defined]  # an Answer has it
    write_object = _template(writers, "value.{}")
    if not before:
        return _keeping(write_object) if getattr(kind, "keeps_json", False) else write_object
    write_dict = _template(writers, "value['{}']")

    def write(value: Any) -> str:
        for prepare in before:
            value = prepare(value)
        return write_dict(value) if isinstance(value, dict) else write_object(value)

    return write


def _keeping(write: Writer) -> Writer:
    """Return a function that writes the JSON once, and caches it with the value."""

    def kept(value: Any) -> Any:
        if value.json is None:
            value.json = write(value)
        return value.json

    return kept


def _template(writers: Mapping[str, Writer | None], member: str) -> Writer:
    """Return a function that fills an f-string with the members. It is ten times as fast as a loop over their names."""
    values = {name: member.format(name) for name in writers}
    texts = (f"{name}({values[name]})" if write else values[name] for name, write in writers.items())
    pairs = ",".join(f'"{name}":{{{text}}}' for name, text in zip(writers, texts, strict=True))
    source = f'lambda value: f"""{{{{{pairs}}}}}"""'
    return eval(source, dict(writers))  # type: ignore[no-any-return]  # noqa: S307  the names of declared fields


def _form_writer(writers: Mapping[str, Writer | None], varying: tuple[str, ...]) -> Writer:
    """Return a function that inserts a value's own members into the JSON of its form. Both are written once."""
    write_form = _room_for(writers, varying)
    texts = "".join(f"{name}(value.{name})," if writers[name] else f"value.{name}," for name in varying)
    texts_of = eval(f"lambda value: ({texts})", dict(writers))  # noqa: S307  the names of declared fields

    def write(value: Any) -> Any:
        if value.json is None:
            form = value.form
            if form.json is None:
                form.json = write_form(value)
            value.json = form.json % texts_of(value)
        return value.json

    return write


def _room_for(writers: Mapping[str, Writer | None], varying: tuple[str, ...]) -> Writer:
    """Return a function from a value to its JSON with `%s` in place of some members."""

    def escaped(name: str) -> Writer:
        write = writers[name] or str
        return lambda value: "%s" if name in varying else write(value).replace("%", "%%")

    return _template({name: escaped(name) for name in writers}, "value.{}")


def _column(kind: Any) -> str:
    """Return the name of the column of a model. Empty if it has none."""
    return str(getattr(kind, "column", ""))


def _column_writer(kind: type[Answer]) -> Writer:
    """Return a function that writes a list of values that differ only in a whole number. Their form is written once."""
    write_form = _list_writer(
        _room_for({name: _field_writer(field) for name, field in kind.model_fields.items()}, (kind.column,))
    )
    column = attrgetter(kind.column)

    def write(values: Any) -> str:
        form = values.form
        if form.json is None:
            form.json = write_form(values)
        text: str = form.json % column(values)
        return text

    return write


def _field_writer(field: FieldInfo) -> Writer | None:
    """Return a function that writes a field's value. None if it is a whole number."""
    prepare = next((constraint.func for constraint in field.metadata if isinstance(constraint, BeforeValidator)), None)
    if prepare is not None:
        return lambda value: _plain(prepare(value))  # type: ignore[call-arg]  # a validator of one argument
    return None if field.annotation is int else _writer(field.annotation)


def _plain(value: Any) -> str:
    return to_json(value).decode()


def _number(value: float) -> str:
    """Return a decimal number's JSON, whose exponents differ from Python's."""
    value = float(value)
    return repr(value) if 1e-4 <= abs(value) < 1e15 else _plain(value)


def _writer(annotation: Any) -> Writer:
    """Return a function that writes a value of a type."""
    arguments = get_args(annotation)
    if annotation is str or (get_origin(annotation) is Literal and set(map(type, arguments)) == {str}):
        return encode_basestring
    if annotation is float:
        return _number
    if annotation is int:
        return str
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return _model_writer(annotation)
    if get_origin(annotation) is tuple and arguments[1:] == (Ellipsis,):
        return _column_writer(arguments[0]) if _column(arguments[0]) else _list_writer(_writer(arguments[0]))
    others = [kind for kind in arguments if kind is not NoneType]
    if get_origin(annotation) in (Union, UnionType) and len(others) == 1:
        return _optional_writer(_writer(others[0]))
    if get_origin(annotation) is not dict and any(map(_has_model, arguments)):
        raise TypeError(
            f"{annotation} has no writer: give it the form of a model, a tuple of models, or either or None"
        )
    return _plain


def _list_writer(write: Writer) -> Writer:
    return lambda values: f"[{','.join(map(write, values))}]"


def _optional_writer(write: Writer) -> Writer:
    return lambda value: "null" if value is None else write(value)


def _has_model(kind: Any) -> bool:
    is_model = isinstance(kind, type) and issubclass(kind, BaseModel)
    return is_model or any(map(_has_model, get_args(kind)))
