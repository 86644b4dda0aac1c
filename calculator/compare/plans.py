"""What differs between plans: their settings, and every component and row of their peaks side by side."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

from calculator.common.names import ComponentName
from calculator.estimate.request import Choices
from calculator.inputs.settings import declared
from calculator.inputs.training import Device, Training

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from calculator.estimate.answer import Estimate, Row
    from calculator.estimate.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingLine:
    """A setting that is not the same in all plans: its path, and its value in each; None where a plan has none."""

    path: str
    values: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RowLine:
    """Storages of one name and data type in each plan: the rows of its peak, none where it has no such storage."""

    name: str
    dtype: str
    rows: tuple[tuple[Row, ...], ...]

    @property
    def bytes(self) -> tuple[int, ...]:
        """Its bytes in each plan."""
        return tuple(sum(row.bytes for row in held) for held in self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentLine:
    """A component's bytes in each plan, and the rows of it that differ, the largest difference first."""

    name: ComponentName
    bytes: tuple[int, ...]
    rows: tuple[RowLine, ...]


def setting_lines(requests: Sequence[Request]) -> tuple[SettingLine, ...]:
    """Every setting that is not the same in all requests, in a request's order."""
    told = [dict(_settings(request)) for request in requests]
    paths = dict.fromkeys(path for settings in told for path in settings)
    lines = (SettingLine(path=path, values=tuple(settings.get(path) for settings in told)) for path in paths)
    return tuple(line for line in lines if any(value != line.values[0] for value in line.values[1:]))


def _settings(request: Request) -> Iterator[tuple[str, Any]]:
    reference = request.model
    yield "model", reference.id or reference.config or reference.parameters
    yield "method.name", request.method.name
    parts: tuple[tuple[str, type, Any], ...] = (
        ("method", type(request.method), request.method),
        ("training", Training, request.training),
        ("device", Device, request.device),
    )
    for part, kind, held in parts:
        for each in declared(kind):
            yield f"{part}.{each.name}", getattr(held, each.name)
    for each in declared(Choices):
        yield each.name, getattr(request, each.name)


def component_lines(plans: Sequence[Estimate]) -> tuple[ComponentLine, ...]:
    """Every component that any of the plans has at its peak, in the order of components."""
    return tuple(line for name in get_args(ComponentName) if any((line := _component(name, plans)).bytes))


def _component(name: ComponentName, plans: Sequence[Estimate]) -> ComponentLine:
    held = [{part.name: part for part in plan.memory.components}.get(name) for plan in plans]
    rows = [_by_name(part.rows if part else ()) for part in held]
    keys = dict.fromkeys(key for listed in rows for key in listed)
    lines = [RowLine(name=key[0], dtype=key[1], rows=tuple(listed.get(key, ()) for listed in rows)) for key in keys]
    differing = sorted((line for line in lines if _spread(line.bytes)), key=lambda line: -_spread(line.bytes))
    return ComponentLine(name=name, bytes=tuple(part.bytes if part else 0 for part in held), rows=tuple(differing))


def _by_name(rows: tuple[Row, ...]) -> dict[tuple[str, str], tuple[Row, ...]]:
    found: dict[tuple[str, str], tuple[Row, ...]] = {}
    for row in rows:
        key = (row.name, row.dtype)
        found[key] = (*found.get(key, ()), row)
    return found


def _spread(sizes: tuple[int, ...]) -> int:
    return max(sizes) - min(sizes)
