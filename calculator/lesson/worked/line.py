"""What a worked example answers with: lines of arithmetic, each in names and in numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Unit = Literal["parameters", "bytes", "bytes a parameter", "bits", "cards", "×", "%", ""]

#: A figure, or a matrix by its rows; a vector is a matrix of one column.
Value = int | float | tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One figure of a worked example: what it is, its formula, the formula with numbers, and what comes out.

    A line without numbers of its own sums up or names what stands above it. `main` marks what was asked for.
    """

    name: str
    formula: str
    substituted: str
    value: Value
    unit: Unit = ""
    main: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Worked:
    """A worked example: its name in addresses, its title, its inputs, and what it makes of them.

    `request` gives the plan that an example on a real model speaks of.
    """

    name: str
    title: str
    told: str
    settings: type
    lines: Callable[[Any], tuple[Line, ...]]
    request: Callable[[Any], dict[str, Any]] | None = None
