"""Conversion of typed requests to the decoded JSON that the parsers read. The same code then checks both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import is_dataclass
from typing import Any

from calculator.inputs.settings import declared
from calculator.methods.base import Method


def body(**parts: Any) -> dict[str, Any]:
    """Return a request's decoded JSON. Parts that are None are left out."""
    return {name: json_value(part) for name, part in parts.items() if part is not None}


def json_value(value: Any) -> Any:
    """Return a value as decoded JSON: settings as objects of those that are not the default, sequences as lists."""
    if isinstance(value, Method):
        return {"name": value.name, **_changed_settings(value)}
    if is_dataclass(value):
        return _changed_settings(value)
    if isinstance(value, Mapping):
        return {key: json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value]
    return value


def _changed_settings(settings: Any) -> dict[str, Any]:
    """Return the settings that are not the default."""
    values = {field.name: (getattr(settings, field.name), field.default) for field in declared(type(settings))}  # type: ignore[arg-type]  # a class is hashable
    return {name: json_value(value) for name, (value, default) in values.items() if value != default}
