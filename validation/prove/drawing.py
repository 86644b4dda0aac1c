"""What a page draws: curves with their spread, and tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validation.prove.claim import significant

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of bars; `low` and `high` are the spread at each x, where there is one."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def to_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return {
            "name": self.name,
            "x": [x if isinstance(x, str) else significant(x) for x in self.x],
            "y": _numbers(self.y),
            "low": None if self.low is None else _numbers(self.low),
            "high": None if self.high is None else _numbers(self.high),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis or a column shows, and its unit."""

    label: str
    unit: str = ""

    def to_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return {"label": self.label, "unit": self.unit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A drawing: series over one axis. Text on x makes bars of it; `timing` marks what no other run reproduces."""

    id: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    timing: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return {
            "id": self.id,
            "title": self.title,
            "x": self.x.to_json(),
            "y": self.y.to_json(),
            "series": [series.to_json() for series in self.series],
            "timing": self.timing,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of values under named columns; None is what does not apply."""

    id: str
    title: str
    columns: dict[str, Axis]
    rows: tuple[tuple[float | str | None, ...], ...]
    timing: bool = False

    def to_json(self) -> dict[str, Any]:
        """As the results file has it."""
        return {
            "id": self.id,
            "title": self.title,
            "columns": [{"key": key, **axis.to_json()} for key, axis in self.columns.items()],
            "rows": [dict(zip(self.columns, map(_value, row), strict=True)) for row in self.rows],
            "timing": self.timing,
        }


def _value(value: float | str | None) -> float | str | None:
    return value if isinstance(value, str) else significant(value)


def _numbers(values: Sequence[float]) -> list[float | None]:
    return [significant(value) for value in values]
