"""Command-line options made from declared inputs, and the JSON that they stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from app.cli import files
from calculator.common.errors import refusal

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from app.forms.fields import Field


def declare(parser: argparse.ArgumentParser, fields: Iterable[Field]) -> None:
    """Give each input its option, by its name and by its dotted path; sizes may be given in GiB or in bytes."""
    for field in fields:
        alone: dict[str, Any] = {"nargs": "?", "const": "true"} if field.control == "checkbox" else {}
        help_text = _help(field).replace("%", "%%")
        parser.add_argument(*_spellings(field), dest=_place(field), metavar=_metavar(field), help=help_text, **alone)
        if field.sized:
            exact = (f"--{field.declared.name}", f"--{path(field)}")
            parser.add_argument(*exact, dest=f"{_place(field)}_exact", metavar="N", help="The same in bytes.")


def given(args: argparse.Namespace, fields: Iterable[Field]) -> dict[str, Any]:
    """The part of a request that the options give, objects within it by their parts; what is not given is absent."""
    body: dict[str, Any] = {}
    for field, value in _values(args, fields):
        (body.setdefault(field.part, {}) if field.part else body)[field.declared.name] = value
    return body


def merged(body: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A request with the changes laid over it, object by object."""
    both = {
        key: merged(body[key], value) if isinstance(value, dict) and isinstance(body.get(key), dict) else value
        for key, value in changes.items()
    }
    return {**body, **both}


def _values(args: argparse.Namespace, fields: Iterable[Field]) -> Iterator[tuple[Field, Any]]:
    for field in fields:
        text = getattr(args, _place(field))
        exact = getattr(args, f"{_place(field)}_exact", None)
        if text is not None and exact is not None:
            raise refusal(path(field), f"give either --{field.name} or --{field.declared.name}, not both", exact)
        if text is not None:
            yield field, value(field, text)
        elif exact is not None:
            yield field, whole(exact)


def value(field: Field, text: str) -> Any:
    """What is typed; unlike in a form, only a field that may be null can be left empty."""
    if field.nullable and text in ("", "null"):
        return None
    return field.value(text) if text.strip() else text


def several(option: str, text: str) -> list[Any]:
    """What an option lists, with commas between, or as a list in JSON.

    Raises:
        PlanError: where it begins as such a list and is none.
    """
    if text.lstrip().startswith("["):
        return list(files.value(text.encode("utf-8", "replace"), repr(text), option))
    return [name.strip() for name in text.split(",") if name.strip()]


def whole(text: str) -> Any:
    """A whole number where the text is one, else the text."""
    try:
        return int(text)
    except ValueError:
        return text


def _spellings(field: Field) -> tuple[str, ...]:
    return (f"--{field.name}",) if field.sized or not field.part else (f"--{field.name}", f"--{path(field)}")


def path(field: Field) -> str:
    """The dotted path of an input in a request."""
    return f"{field.part}.{field.declared.name}" if field.part else field.declared.name


def _place(field: Field) -> str:
    return f"field_{field.declared.name}"


def _metavar(field: Field) -> str:
    if field.control == "checkbox":
        return "true|false"
    if field.control == "select":
        return "|".join(field.declared.choices)
    return "N" if field.control == "number" else "TEXT"


def _help(field: Field) -> str:
    setting = field.declared.setting
    usual = field.text(field.declared.default)
    limits = f" {setting.minimum:,} to {setting.maximum:,}." if setting.minimum is not None and not field.sized else ""
    unit = " In GiB." if field.sized else ""
    return f"{setting.help}{unit}{limits}{f' Default {usual}.' if usual else ''}"
