"""A chapter of the lesson."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from calculator.lesson.figure import Figure
    from calculator.lesson.worked.line import WorkedExample


@dataclass(frozen=True, slots=True, kw_only=True)
class Formula:
    """A formula in TeX-like notation, with a caption."""

    text: str
    says: str

    @property
    def clauses(self) -> tuple[str, ...]:
        """The parts between commas. Each can be on a line of its own."""
        return tuple(self.text.split(", "))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A chapter: a summary, formulas, worked examples that readers can change, and figures of the lesson.

    `method` is the name of the chapter's method in a request. `experiments` names the chapter's experiments, or the
    claims of an experiment on one subject (`identity/adapter`).
    """

    name: str
    title: str
    summary: str
    formulas: tuple[Formula, ...]
    worked: tuple[WorkedExample, ...] = ()
    figures: tuple[Figure, ...] = ()
    experiments: tuple[str, ...] = ()
    method: str | None = None
