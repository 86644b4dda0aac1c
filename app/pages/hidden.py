"""Settings of an imported file that the form of a plan has no field for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from app.interop.imports.imported import NotUnderstood
from calculator.inputs.settings import declared
from calculator.inputs.training import Training
from calculator.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from app.interop.imports.imported import Imported

#: The reason that is stated with a setting for which the page's form has no field.
WITHOUT_IT = "has no field on this page: the figures are without it, those of /api/v1/estimate for this import with it"


def with_hidden(imported: Imported, why: str = WITHOUT_IT) -> Imported:
    """Return the import with the settings that its page leaves out, listed as not reproduced."""
    request = imported.request
    method, training = request["method"], request.get("training", {})
    hidden = [
        NotUnderstood(key=key, value=value, why=why)
        for key, value in (*_hidden(METHODS[method["name"]], method), *_hidden(Training, training))
    ]
    return replace(imported, not_understood=(*imported.not_understood, *hidden)) if hidden else imported


def _hidden(cls: type, values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for field in declared(cls):
        value = values.get(field.name)
        if value is None or value == field.default:
            continue
        if not field.setting.form:
            yield field.name, value
        elif field.nested is not None and isinstance(value, Mapping):
            yield from _hidden(field.nested, value)
