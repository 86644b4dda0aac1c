"""The differences between plans: their settings, and the components and tensors at their peaks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from calculator.common.names import ComponentName
from calculator.estimation.request import Choices
from calculator.inputs.device import Device
from calculator.inputs.settings import declared
from calculator.inputs.stack import StackVersions
from calculator.inputs.training import Training

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.estimation.answer import Estimate, Row
    from calculator.estimation.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingLine:
    """A setting that differs between plans: its path, and its value in each plan, or None if the plan lacks it."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLine:
    """The tensors of one name and data type at the peak of each plan."""

    name: str
    dtype: str
    rows: tuple[tuple[Row, ...], ...]

    @property
    def bytes(self) -> tuple[int, ...]:
        """The bytes in each plan."""
        return tuple(sum(row.bytes for row in rows) for rows in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentLine:
    """The bytes of a component in each plan, and its tensors that differ, the largest difference first."""

    name: ComponentName
    bytes: tuple[int, ...]
    rows: tuple[RowLine, ...]


def setting_lines(requests: Sequence[Request]) -> tuple[SettingLine, ...]:
    """Return every setting that differs between the requests, in the order of a request."""
    every = [dict(_settings(request)) for request in requests]
    paths = dict.fromkeys(path for settings in every for path in settings)
    lines = (SettingLine(path=path, values=tuple(settings.get(path) for settings in every)) for path in paths)
    return tuple(line for line in lines if any(value != line.values[0] for value in line.values[1:]))


def _settings(request: Request) -> Iterator[tuple[str, Any]]:
    reference = request.model
    yield "model", reference.id or reference.config or reference.parameters
    yield "method.name", request.method.name
    parts: tuple[tuple[str, type, Any], ...] = (
        ("method", type(request.method), request.method),
        ("training", Training, request.training),
        ("device", Device, request.device),
        ("stack", StackVersions, request.stack),
    )
    for part, kind, settings in parts:
        for field in declared(kind):
            yield f"{part}.{field.name}", getattr(settings, field.name)
    for field in declared(Choices):
        yield field.name, getattr(request, field.name)


def component_lines(plans: Sequence[Estimate]) -> tuple[ComponentLine, ...]:
    """Return every component of any plan's peak, in the order of components."""
    return tuple(line for name in get_args(ComponentName) if any((line := _component(name, plans)).bytes))


def _component(name: ComponentName, plans: Sequence[Estimate]) -> ComponentLine:
    parts = [{part.name: part for part in plan.memory.components}.get(name) for plan in plans]
    rows = [_rows_by_name(part.rows if part else ()) for part in parts]
    keys = dict.fromkeys(key for listed in rows for key in listed)
    lines = [RowLine(name=key[0], dtype=key[1], rows=tuple(listed.get(key, ()) for listed in rows)) for key in keys]
    differing = sorted((line for line in lines if _spread(line.bytes)), key=lambda line: -_spread(line.bytes))
    return ComponentLine(name=name, bytes=tuple(part.bytes if part else 0 for part in parts), rows=tuple(differing))


def _rows_by_name(rows: tuple[Row, ...]) -> dict[tuple[str, str], tuple[Row, ...]]:
    by_name: dict[tuple[str, str], tuple[Row, ...]] = {}
    for row in rows:
        key = (row.name, row.dtype)
        by_name[key] = (*by_name.get(key, ()), row)
    return by_name


def _spread(sizes: tuple[int, ...]) -> int:
    return max(sizes) - min(sizes)
