"""A claim of the lesson: its statement, the experiment, the figures, and a verdict computed from them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

Kind = Literal["holds", "holds within", "does not hold"]
Relation = Literal["equal to", "at most", "at least", "between"]

GB = 10**9

#: Numbers from this size on, and below its reciprocal, have another format.
LONG = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that an experiment found.

    `value` is the median of `of` values (seeds or rounds), and `low` and `high` are their spread. `timing` marks
    figures that another run with the same seeds does not reproduce.
    """

    key: str
    name: str
    value: float
    unit: str = ""
    low: float | None = None
    high: float | None = None
    of: int | None = None
    timing: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
        return {
            "key": self.key,
            "name": self.name,
            "value": significant(self.value),
            "unit": self.unit,
            "low": significant(self.low),
            "high": significant(self.high),
            "of": self.of,
            "timing": self.timing,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A condition on a figure, which must be met for the claim to hold.

    A `tolerance` is a bound on an error that rounding causes. A claim that needs it holds within it.
    """

    figure: Figure
    relation: Relation
    bounds: tuple[float, ...]
    tolerance: bool = False

    @property
    def holds(self) -> bool:
        """Whether the figure meets the condition; NaN meets none."""
        value, low, high = self.figure.value, self.bounds[0], self.bounds[-1]
        match self.relation:
            case "equal to":
                return value == low
            case "at most":
                return value <= high
            case "at least":
                return value >= low
            case "between":
                return low <= value <= high

    @property
    def condition(self) -> str:
        """The condition in words."""
        return f"{self.relation} {' and '.join(measure(bound, self.figure.unit) for bound in self.bounds)}"

    @property
    def found(self) -> str:
        """The figure in words."""
        return f"{self.figure.name}: {measure(self.figure.value, self.figure.unit)}"

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
        return {
            "figure": self.figure.key,
            "relation": self.relation,
            "bounds": [significant(bound) for bound in self.bounds],
            "tolerance": self.tolerance,
            "holds": self.holds,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One claim of the lesson and its result.

    `lesson` restates the claim, `done` describes the experiment, and `remark` explains where practice differs.
    """

    id: str
    lesson: str
    done: str
    figures: tuple[Figure, ...]
    checks: tuple[Check, ...]
    remark: str | None = None

    @property
    def kind(self) -> Kind:
        """The kind of the verdict."""
        if not all(check.holds for check in self.checks):
            return "does not hold"
        return "holds within" if self._checks_by_tolerance else "holds"

    @property
    def words(self) -> str:
        """The verdict, with the figures that decide it."""
        if self.kind == "does not hold":
            failing = (f"{check.found}, not {check.condition}" for check in self.checks if not check.holds)
            return f"does not hold: {'; '.join(failing)}"
        if not self._checks_by_tolerance:
            return "holds"
        within = (
            f"{measure(check.bounds[-1], check.figure.unit)} ({check.found})" for check in self._checks_by_tolerance
        )
        return f"holds within {'; '.join(within)}"

    @property
    def _checks_by_tolerance(self) -> list[Check]:
        """The checks that hold only because of their tolerance."""
        return [check for check in self.checks if check.tolerance and check.figure.value]

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the results file."""
        return {
            "id": self.id,
            "lesson": self.lesson,
            "done": self.done,
            "figures": [figure.to_json() for figure in self.figures],
            "checks": [check.to_json() for check in self.checks],
            "verdict": {"kind": self.kind, "words": self.words},
            "remark": self.remark,
        }


def spread(key: str, name: str, values: Sequence[float], unit: str = "", *, timing: bool = False) -> Figure:
    """Return a figure of several values: their median, the lowest and the highest."""
    return Figure(
        key=key,
        name=name,
        value=median(values),
        unit=unit,
        low=min(values),
        high=max(values),
        of=len(values),
        timing=timing,
    )


def significant(value: float | None, digits: int = 6) -> float | None:
    """Return a number rounded to `digits` significant digits. Integers are unchanged. NaN and infinity become None."""
    if value is None or not math.isfinite(value):
        return None
    return value if isinstance(value, int) else float(f"{value:.{digits}g}")


def formatted(value: float) -> str:
    """Return a number as text, with three significant digits."""
    if float(value).is_integer() and abs(value) < 10**15:
        return f"{int(value):,}"
    return f"{value:.1e}" if abs(value) < 1 / LONG else f"{value:.3g}" if abs(value) < LONG else f"{value:,.0f}"


def measure(value: float, unit: str) -> str:
    """Return a number with its unit; large sizes are in GB, as in the lesson."""
    if unit == "bytes" and value >= GB:
        value, unit = value / GB, "GB"
    return f"{formatted(value)} {unit}".rstrip()
