"""A figure of the lesson, compared with the value of its formula."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the lesson: the claim, from `low` to `high`, and the exact value of the formula.

    `decimals` is the precision of the lesson, negative for tens. `unit` is the unit of all three numbers.
    """

    section: str
    claim: str
    low: float
    high: float
    decimals: int
    unit: str
    formula: str
    exact: float
    remark: str | None

    @property
    def holds(self) -> bool:
        """Whether the value of the formula, rounded to the precision of the lesson, is the figure of the lesson."""
        return self.low <= round(self.exact, self.decimals) <= self.high


def figure(
    section: str,
    claim: str,
    stated: float | tuple[float, float],
    unit: str,
    formula: str,
    exact: float,
    remark: str | None = None,
    *,
    decimals: int = 0,
) -> Figure:
    """Return a figure of the lesson. The claim is one number or a range."""
    low, high = stated if isinstance(stated, tuple) else (stated, stated)
    return Figure(
        section=section,
        claim=claim,
        low=low,
        high=high,
        decimals=decimals,
        unit=unit,
        formula=formula,
        exact=exact,
        remark=remark,
    )
