"""One figure of the lesson beside what its formula gives."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of the lesson: what it claims, from `low` to `high`, and what the formula gives.

    `decimals` is the precision that the lesson states (negative for tens), `unit` that of all three numbers.
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
        """Whether the formula gives what the lesson states, at the precision in which it states it."""
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
    """A figure of the lesson, whose claim is one number or a range."""
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
