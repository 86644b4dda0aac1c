"""The result of a worked example: lines of arithmetic, with names and with numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Unit = Literal["parameters", "bytes", "bytes per parameter", "bits", "GPUs", "×", "%", ""]

#: A number, or a matrix as a list of rows. A vector is a matrix with one column.
Value = int | float | tuple[tuple[float, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a worked example: its name, the formula, the formula with numbers, and the value.

    `substituted` is empty or a remark if there are no numbers to insert. `main` marks the results.
    """

    name: str
    formula: str
    substituted: str
    value: Value
    unit: Unit = ""
    main: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkedExample:
    """A worked example: its name in addresses, a title, an introduction, the inputs, and the function for its lines.

    `request` returns the request for the same run if the example runs on a real model.
    """

    name: str
    title: str
    introduction: str
    settings: type
    lines: Callable[[Any], tuple[Line, ...]]
    request: Callable[[Any], dict[str, Any]] | None = None
