"""A chapter of the lesson."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.lesson.figure import Figure
    from calculator.lesson.worked.line import Worked


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A formula, written on a line as TeX spells fractions, and what it says."""

    text: str
    says: str

    @property
    def clauses(self) -> tuple[str, ...]:
        """Its parts between commas, each of which can stand on a line of its own."""
        return tuple(self.text.split(", "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A chapter: what it is about, its formulas, what a reader can try, and the figures of the lesson that it holds.

    `method` is the calculator's name of the method that it is about; `experiments` name what was run for it, whole, or
    (`identity/adapter`) its claims on one thing.
    """

    name: str
    title: str
    summary: str
    formulas: tuple[Formula, ...]
    worked: tuple[Worked, ...] = ()
    figures: tuple[Figure, ...] = ()
    experiments: tuple[str, ...] = ()
    method: str | None = None
