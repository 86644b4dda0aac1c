"""Command-line options made from form fields, and the request body that they give."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.forms.fields import set_at
from app.http.bodies import parse_json
from calculator.common.errors import refusal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from app.forms.fields import Field


def add_fields(parser: argparse.ArgumentParser, fields: Iterable[Field]) -> None:
    """Add an option for each field, under its name and its dotted path; sizes are in GiB or in bytes."""
    for field in fields:
        if field.method:
            continue  # the option of the first method with the setting serves every method
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if field.control == "checkbox" else {}
        help_text = _help(field).replace("%", "%%")
        parser.add_argument(*_spellings(field), dest=_dest(field), metavar=_metavar(field), help=help_text, **alone)
        if field.sized:
            exact = (f"--{field.declared.name}", f"--{path(field)}")
            parser.add_argument(*exact, dest=f"{_dest(field)}_exact", metavar="N", help="The same, in bytes.")


def body_of(args: argparse.Namespace, fields: Iterable[Field]) -> dict[str, Any]:
    """Return the part of a request body that the options give; options that are not used are absent."""
    body: dict[str, Any] = {}
    for field, value in _values(args, fields):
        set_at(body, path(field).split("."), value)
    return body


def merged(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Return a request body overridden by changes, object by object."""
    overrides = {
        key: merged(body[key], value) if isinstance(value, dict) and isinstance(body.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**body, **overrides}


def _values(args: argparse.Namespace, fields: Iterable[Field]) -> Iterator[tuple[Field, Any]]:
    for field in (field for field in fields if not field.method):
        text = getattr(args, _dest(field))
        exact = getattr(args, f"{_dest(field)}_exact", None)
        if text is not None and exact is not None:
            raise refusal(path(field), f"give either --{field.name} or --{field.declared.name}, not both", exact)
        if text is not None:
            yield field, value(field, text)
        elif exact is not None:
            yield field, integer(exact)


def value(field: Field, text: str) -> Any:
    """Return the JSON value of an option. Unlike in a form, only a nullable field accepts an empty text."""
    if field.nullable and text in ("", "null"):
        return None
    return field.value(text) if text.strip() else text


def list_of(option: str, text: str) -> list[Any]:
    """Return the values of an option: separated by commas, or a JSON list.

    Raises:
        PlanError: if it starts like a JSON list and is not one.
    """
    if text.lstrip().startswith("["):
        return list(parse_json(text.encode("utf-8", "replace"), repr(text), option))
    return [name.strip() for name in text.split(",") if name.strip()]


def integer(text: str) -> Any:
    """Return a whole number if the text is one, else the text."""
    try:
        return int(text)
    except ValueError:
        return text


def _spellings(field: Field) -> tuple[str, ...]:
    return (f"--{field.name}",) if field.sized or not field.part else (f"--{field.name}", f"--{path(field)}")


def path(field: Field) -> str:
    """Return the dotted path of a field in a request."""
    return f"{field.part}.{field.declared.name}" if field.part else field.declared.name


def _dest(field: Field) -> str:
    return f"field_{field.declared.name}"


def _metavar(field: Field) -> str:
    if field.control == "checkbox":
        return "true|false"
    if field.control == "select":
        return "|".join(field.declared.choices)
    return "N" if field.control == "number" else "TEXT"


def _help(field: Field) -> str:
    setting = field.declared.setting
    default = field.text(field.declared.default)
    limits = f" {setting.minimum:,} to {setting.maximum:,}." if setting.minimum is not None and not field.sized else ""
    unit = " In GiB." if field.sized else ""
    return f"{setting.help}{unit}{limits}{f' Default {default}.' if default else ''}"
