"""Curves with their spread, and tables, for a page to draw."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from validation.prove.claim import significant

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line or set of bars; `low` and `high` are the spread at each x, if there is one."""

    name: str
    x: Sequence[float | str]
    y: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
        return {
            "name": self.name,
            "x": [x if isinstance(x, str) else significant(x) for x in self.x],
            "y": _numbers(self.y),
            "low": None if self.low is None else _numbers(self.low),
            "high": None if self.high is None else _numbers(self.high),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """The label and unit of an axis or a column."""

    label: str
    unit: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
        return {"label": self.label, "unit": self.unit}


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Series over one axis. Text on x draws bars; `timing` marks values that another run does not reproduce."""

    id: str
    title: str
    x: Axis
    y: Axis
    series: tuple[Series, ...]
    timing: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
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
    """Rows of values under named columns; None is a value that does not apply."""

    id: str
    title: str
    columns: dict[str, Axis]
    rows: tuple[tuple[float | str | None, ...], ...]
    timing: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
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
